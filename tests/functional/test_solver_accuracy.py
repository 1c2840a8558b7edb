"""Samplers where the exact answer is known: Gaussians and mixtures, whose denoisers are formulas. No network is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genlib.functional import diffusion, samplers
from genlib.functional.samplers import Denoiser, Grid

MEAN, STD = 1.5, 0.4
SCHEDULE = diffusion.cosine()
Levels = Callable[[Tensor], tuple[float, float]]


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scheduled(time: Tensor) -> tuple[float, float]:
    alpha, sigma = SCHEDULE.levels(time)
    return alpha.item(), sigma.item()


def flowing(time: Tensor) -> tuple[float, float]:
    t = time.item() / 1000
    return 1 - t, t


def gaussian(levels: Levels) -> Denoiser:
    """E[x_0 | x_t] where x_0 ~ N(MEAN, STD**2)."""

    def denoise(x: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = levels(time)
        return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)

    return denoise


def mixture(modes: Tensor, std: float, levels: Levels) -> Denoiser:
    """E[x_0 | x_t] of equally likely Gaussians around modes (M, D)."""

    def denoise(x: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = levels(time)
        variance = alpha**2 * std**2 + sigma**2
        share = torch.softmax(-(x[:, None] - alpha * modes).square().sum(2) / (2 * variance), dim=1)
        from_mode = modes + alpha * std**2 / variance * (x[:, None] - alpha * modes)
        return (share[:, :, None] * from_mode).sum(1)

    return denoise


def rings(count: int = 8) -> Tensor:
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    return torch.stack([angle.cos(), angle.sin()], 1) * 2


def probability_flow(x: Tensor, grid: Grid) -> Tensor:
    """The exact solution for the Gaussian: the number of standard deviations from the mean stays."""
    (first, *_, last), (s_first, *_, s_last) = grid.levels()
    return last * MEAN + math.hypot(last * STD, s_last) * (x - first * MEAN) / math.hypot(first * STD, s_first)


def smooth(steps: int) -> Grid:
    """log(sigma / alpha) falls evenly from 2 to -3, a part of a run of one step more, so that Heun knows the time at its end."""
    log_ratio = torch.linspace(2, -3, steps + 1, dtype=torch.float64)
    log_ratio = torch.cat([log_ratio, log_ratio[-1:] - 1])
    alpha = (1 + (2 * log_ratio).exp()).rsqrt()
    return Grid(log_ratio[:-1], alpha, alpha * log_ratio.exp()).part(0, steps)


def by_log_ratio(time: Tensor) -> tuple[float, float]:
    alpha = 1 / math.sqrt(1 + math.exp(2 * time.item()))
    return alpha, alpha * math.exp(time.item())


@pytest.mark.parametrize(("sampler", "order"), [(samplers.ddim, 1), (samplers.heun, 2), (samplers.dpm_solver_pp_2m, 2)])
def test_errors_fall_with_the_order_of_the_solver(sampler, order: int) -> None:
    x = draws(64)
    exact = probability_flow(x, smooth(32))
    errors = [(sampler(gaussian(by_log_ratio), x, smooth(steps)) - exact).abs().max().item() for steps in (32, 64, 128, 256)]
    for coarse, fine in itertools.pairwise(errors[1:]):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.euler, samplers.heun, samplers.dpm_solver_pp_2m])
def test_many_steps_reach_the_exact_solution(sampler) -> None:
    grid = samplers.trailing(SCHEDULE, 500)
    x = draws(200)
    torch.testing.assert_close(sampler(gaussian(scheduled), x, grid), probability_flow(x, grid), rtol=0, atol=0.02)


def test_a_flow_follows_its_exact_path() -> None:
    grid = samplers.flow_grid(1000)
    path = []
    x = draws(100)
    samplers.flow_euler(gaussian(flowing), x, grid, on_step=lambda index, x_t, x0: path.append(x_t.clone()))
    for index in (99, 499, 899, 999):
        torch.testing.assert_close(path[index], probability_flow(x, grid.part(0, index + 1)), rtol=0, atol=5e-3)


def test_one_ancestral_step_draws_the_posterior() -> None:
    """Ho et al. 2020, equation 7, with betas of their own, the true data known."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, 0)
    time, count = 300, 200_000
    x0, x_t = draws(1).item(), draws(1, seed=1).item()
    beta, now, before = betas[time], kept[time], kept[time - 1]
    mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x_t
    grid = samplers.at_times(diffusion.linear(), [time], end=time - 1)
    drawn = samplers.ancestral(lambda x, _: torch.full_like(x, x0), torch.full((count,), x_t), grid, noise=lambda _: draws(count, seed=2)).double()
    variance = (1 - before) / (1 - now) * beta
    assert drawn.mean().item() == pytest.approx(mean.item(), abs=4 * math.sqrt(variance / count))
    assert drawn.var().item() == pytest.approx(variance.item(), rel=0.02)
    still = samplers.ddim(lambda x, _: torch.full_like(x, x0), torch.tensor([x_t]), grid, eta=1.0, noise=lambda _: torch.zeros(1))
    assert still.item() == pytest.approx(mean.item(), rel=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_have_the_moments_of_the_data(eta: float) -> None:
    count = 20_000
    final = samplers.ddim(gaussian(scheduled), draws(count), samplers.trailing(SCHEDULE, 200), eta=eta, noise=lambda i: draws(count, seed=i + 1))
    assert final.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert final.std().item() == pytest.approx(STD, rel=0.05)


def reached(samples: Tensor, modes: Tensor, radius: float) -> Tensor:
    """How many samples lie within `radius` of each mode, as shares of all."""
    near = torch.cdist(samples, modes) < radius
    return near.double().mean(0)


def test_samplers_reach_every_mode_alike() -> None:
    modes, std, count = rings(), 0.1, 4000
    denoise, grid = mixture(modes, std, scheduled), samplers.trailing(SCHEDULE, 30)
    runs = {
        "ancestral, 200 steps": samplers.ancestral(
            denoise, draws(count, 2), samplers.trailing(SCHEDULE, 200), noise=lambda i: draws(count, 2, seed=i + 1)
        ),
        "ddim": samplers.ddim(denoise, draws(count, 2), grid),
        "heun": samplers.heun(denoise, draws(count, 2), samplers.karras(SCHEDULE, 30)),
        "dpm_solver_pp_2m": samplers.dpm_solver_pp_2m(denoise, draws(count, 2), grid),
    }
    for name, samples in runs.items():
        shares = reached(samples, modes, 4 * std)
        assert shares.sum() > 0.97, name
        assert shares.min() > 0.125 - 4 * math.sqrt(0.11 / count), name


def test_sixteen_flow_steps_cover_all_modes() -> None:
    modes = rings()
    final = samplers.flow_euler(mixture(modes, 0.1, flowing), draws(2000, 2), samplers.flow_grid(16))
    shares = reached(final, modes, 0.4)
    assert shares.min() > 0.08
    assert shares.sum() > 0.9


def test_reflow_straightens_paths_and_few_steps_then_suffice() -> None:
    """In one dimension the reflowed velocity is known: the model's own pairs, sorted, on lines that never cross."""
    modes = torch.tensor([[-1.5], [2.0]], dtype=torch.float64)
    denoise, fine, noise = mixture(modes, 0.2, flowing), samplers.flow_grid(1000), draws(2000, 1).sort(dim=0).values
    data, noise = samplers.reflow_pairs(denoise, noise, fine)

    def reflowed(x: Tensor, time: Tensor) -> Tensor:
        t = time.item() / 1000
        places = diffusion.interpolate(data, noise, torch.tensor(t)).squeeze(1)
        right = torch.searchsorted(places, x.squeeze(1)).clamp(1, len(places) - 1)
        share = ((x.squeeze(1) - places[right - 1]) / (places[right] - places[right - 1])).clamp(0, 1)[:, None]
        velocity = diffusion.velocity(data, noise)
        return diffusion.to_x0_from_velocity(velocity[right - 1].lerp(velocity[right], share), x, torch.tensor(t))

    def measure(model: Denoiser) -> tuple[float, float]:
        path = [noise]
        end = samplers.flow_euler(model, noise, fine, on_step=lambda _index, x, _x0: path.append(x.clone()))
        bend = diffusion.straightness(torch.stack(path), fine.sigma).mean().item()
        return bend, (samplers.flow_euler(model, noise, samplers.flow_grid(4)) - end).abs().mean().item()

    (bend, error), (bend_after, error_after) = measure(denoise), measure(reflowed)
    assert bend_after < 0.05 * bend
    assert error_after < 0.05 * error
