"""Samplers against diffusers' schedulers with the same network, and parts of a run against the whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genlib.functional import diffusion, samplers
from genlib.functional.diffusion import Prediction, Schedule
from genlib.functional.samplers import Denoiser, Grid

PICTURE = (2, 3, 4, 4)
TOTAL = 1000
SCHEDULE = diffusion.scaled_linear(TOTAL)
SPACINGS: dict[str, Callable[[Schedule, int], Grid]] = {
    "leading": lambda schedule, steps: samplers.leading(schedule, steps, 1),
    "trailing": samplers.trailing,
    "linspace": samplers.linspace,
}


def draw(call: int) -> Tensor:
    return torch.randn(PICTURE, generator=torch.Generator().manual_seed(call), dtype=torch.float64)


def network(x: Tensor, time: Tensor) -> Tensor:
    """Smooth in both, and mixes pixels."""
    return 0.7 * torch.tanh(x + 0.3 * x.roll(1, -1) - 0.2) + 0.1 * torch.sin(time.to(x) / 150)


def denoiser(kind: Prediction, grid: Grid) -> Denoiser:
    """The network, read as `kind` at the grid's own levels."""
    level = {
        time.item(): (alpha, sigma) for time, alpha, sigma in zip(grid.time, *(x.tolist() for x in (grid.alpha[:-1], grid.sigma[:-1])), strict=True)
    }

    def denoise(x: Tensor, time: Tensor) -> Tensor:
        return diffusion.to_x0(kind, network(x, time), x, *level[time.item()])

    return denoise


def theirs(name: str, kind: str, schedule: Schedule = SCHEDULE, **config: object):
    """A scheduler of diffusers over our levels, in double precision as far as it keeps it."""
    import diffusers

    scheduler = getattr(diffusers, name)(prediction_type={"v": "v_prediction", "x0": "sample"}.get(kind, kind), **config)
    scheduler.alphas_cumprod = schedule.alpha**2
    return scheduler


def run(scheduler, x: Tensor, **extra: object) -> Tensor:
    """Diffusers' loop; x in VP scaling."""
    sigma = getattr(scheduler, "sigmas", None)
    if sigma is not None and hasattr(scheduler, "is_scale_input_called"):
        x = x * (sigma[0].double() ** 2 + 1).sqrt()
    for time in scheduler.timesteps:
        said = network(scheduler.scale_model_input(x, time).double(), time)
        x = scheduler.step(said, time, x, **extra).prev_sample.double()
    return x


def close(ours: Tensor, reference: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.double(), reference.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_equals_diffusers(kind: Prediction, spacing: str) -> None:
    scheduler = theirs("DDIMScheduler", kind, timestep_spacing=spacing, steps_offset=1, clip_sample=False)
    scheduler.set_timesteps(20)
    grid = SPACINGS[spacing](SCHEDULE, 20)
    close(samplers.ddim(denoiser(kind, grid), draw(0), grid), run(scheduler, draw(0)), 1e-9)


def test_ddim_equals_diffusers_with_linspace() -> None:
    """Only with all times: elsewhere theirs steps by T // n where its points lie (T - 1) / (n - 1) apart."""
    scheduler = theirs("DDIMScheduler", "v", timestep_spacing="linspace", clip_sample=False)
    scheduler.set_timesteps(TOTAL)
    grid = samplers.linspace(SCHEDULE, TOTAL)
    close(samplers.ddim(denoiser("v", grid), draw(0), grid), run(scheduler, draw(0)), 1e-8)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise_equals_diffusers(kind: Prediction, eta: float) -> None:
    scheduler = theirs("DDIMScheduler", kind, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    scheduler.final_alpha_cumprod = SCHEDULE.alpha[0] ** 2
    scheduler.set_timesteps(20)
    grid = samplers.leading(SCHEDULE, 20, 1, end=0)
    x = draw(0)
    for index, time in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, time), time, x, eta=eta, variance_noise=draw(index + 1)).prev_sample
    close(samplers.ddim(denoiser(kind, grid), draw(0), grid, eta=eta, noise=lambda index: draw(index + 1)), x, 1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ancestral_equals_diffusers_ddpm(kind: Prediction, spacing: str) -> None:
    scheduler = theirs("DDPMScheduler", kind, timestep_spacing=spacing, steps_offset=1, clip_sample=False)
    scheduler.set_timesteps(30)
    grid = SPACINGS[spacing](SCHEDULE, 30)
    one, two = (torch.Generator().manual_seed(5) for _ in range(2))
    ours = samplers.ancestral(denoiser(kind, grid), draw(0), grid, noise=lambda _: torch.randn(PICTURE, generator=one, dtype=torch.float64))
    close(ours, run(scheduler, draw(0), generator=two), 1e-8)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ancestral_equals_diffusers_euler_ancestral(spacing: str) -> None:
    scheduler = theirs("EulerAncestralDiscreteScheduler", "v", timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(30)
    grid = SPACINGS[spacing](SCHEDULE, 30)
    one, two = (torch.Generator().manual_seed(5) for _ in range(2))
    ours = samplers.ancestral(denoiser("v", grid), draw(0), grid, noise=lambda _: torch.randn(PICTURE, generator=one, dtype=torch.float64))
    close(ours, run(scheduler, draw(0), generator=two), 2e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_euler_and_heun_equal_diffusers(name: str, kind: Prediction, spacing: str) -> None:
    scheduler = theirs(name, kind, timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(20)
    if name.startswith("Heun"):
        scheduler.is_scale_input_called = True
    grid = samplers.fractional(SCHEDULE, 20) if spacing == "linspace" else SPACINGS[spacing](SCHEDULE, 20)
    sampler = samplers.euler if name.startswith("Euler") else samplers.heun
    close(sampler(denoiser(kind, grid), draw(0), grid), run(scheduler, draw(0)), 2e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [5, 25])
def test_dpm_solver_equals_diffusers(kind: Prediction, spacing: str, steps: int) -> None:
    scheduler = theirs("DPMSolverMultistepScheduler", kind, timestep_spacing=spacing, steps_offset=1, algorithm_type="dpmsolver++", solver_order=2)
    scheduler.set_timesteps(steps)
    grid = samplers.at_times(SCHEDULE, scheduler.timesteps)  # its spacings lay out one step more and leave out the last
    close(samplers.dpm_solver_pp_2m(denoiser(kind, grid), draw(0), grid), run(scheduler, draw(0)), 2e-5)


def test_dpm_solver_over_karras_levels_equals_diffusers() -> None:
    scheduler = theirs("DPMSolverMultistepScheduler", "epsilon", use_karras_sigmas=True)
    scheduler.set_timesteps(20)
    karras = samplers.karras(SCHEDULE, 20)
    grid = Grid(scheduler.timesteps, karras.alpha, karras.sigma)  # theirs rounds what the network is told
    close(samplers.dpm_solver_pp_2m(denoiser("epsilon", grid), draw(0), grid), run(scheduler, draw(0)), 3e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler_equals_diffusers(shift: float) -> None:
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(12)
    x = draw(0).float()
    for time in scheduler.timesteps:
        x = scheduler.step(network(x, time), time, x).prev_sample
    grid = samplers.flow_grid(12, shift)

    def denoise(x_t: Tensor, time: Tensor) -> Tensor:
        return diffusion.to_x0_from_velocity(network(x_t, time), x_t, time / 1000)

    close(samplers.flow_euler(denoise, draw(0).float(), grid), x, 2e-6)
    close(samplers.flow_euler(denoise, draw(0), grid), x, 1e-5)


def test_ddim_from_pure_noise_equals_diffusers() -> None:
    schedule = diffusion.zero_terminal_snr(SCHEDULE)
    scheduler = theirs("DDIMScheduler", "v", schedule, timestep_spacing="trailing", rescale_betas_zero_snr=True, clip_sample=False)
    scheduler.set_timesteps(20)
    grid = samplers.trailing(schedule, 20)
    close(samplers.ddim(denoiser("v", grid), draw(0), grid), run(scheduler, draw(0)), 1e-9)


def test_euler_from_pure_noise_equals_diffusers() -> None:
    """Theirs replaces an alpha**2 of zero by 2**-24: equal to 1e-5 where ours does so too, to 1e-3 as it is."""
    schedule = diffusion.zero_terminal_snr(SCHEDULE)
    alpha = torch.cat([schedule.alpha[:-1], torch.tensor([2.0**-12], dtype=torch.float64)])
    nearly = Schedule(alpha, (1 - alpha**2).sqrt())
    scheduler = theirs("EulerDiscreteScheduler", "v", nearly, timestep_spacing="trailing", rescale_betas_zero_snr=True)
    scheduler.set_timesteps(20)
    reference = run(scheduler, draw(0))
    for levels, tolerance in ((nearly, 2e-5), (schedule, 1e-3)):
        grid = samplers.trailing(levels, 20)
        close(samplers.euler(denoiser("v", grid), draw(0), grid), reference, tolerance)


@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.heun, samplers.dpm_solver_pp_2m])
def test_every_solver_begins_in_pure_noise(sampler) -> None:
    grid = samplers.trailing(diffusion.zero_terminal_snr(SCHEDULE), 40)
    reference = samplers.trailing(SCHEDULE, 40)
    ours = sampler(denoiser("v", grid), draw(0), grid)
    assert ours.isfinite().all()
    assert (ours - sampler(denoiser("v", reference), draw(0), reference)).abs().max() < 0.2


@pytest.mark.parametrize("split", [0, 1, 7, 19, 20])
@pytest.mark.parametrize("grid", [samplers.leading(SCHEDULE, 20, 1), samplers.trailing(diffusion.zero_terminal_snr(SCHEDULE), 20)])
def test_two_parts_are_one_run(split: int, grid: Grid) -> None:
    denoise, first, second = denoiser("v", grid), grid.part(0, split), grid.part(split)
    for sampler in (samplers.ddim, samplers.euler, samplers.heun):
        assert torch.equal(sampler(denoise, sampler(denoise, draw(0), first), second), sampler(denoise, draw(0), grid))
    halfway = samplers.ancestral(denoise, draw(0), first, noise=draw)
    assert torch.equal(samplers.ancestral(denoise, halfway, second, noise=draw), samplers.ancestral(denoise, draw(0), grid, noise=draw))
    estimates = []
    halfway = samplers.dpm_solver_pp_2m(denoise, draw(0), first, on_step=lambda _index, _x, x0: estimates.append(x0))
    ours = samplers.dpm_solver_pp_2m(denoise, halfway, second, previous=estimates[-1] if estimates else None)
    assert torch.equal(ours, samplers.dpm_solver_pp_2m(denoise, draw(0), grid))


@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.heun, samplers.dpm_solver_pp_2m])
def test_steps_are_told_and_may_be_cancelled(sampler) -> None:
    grid, told = samplers.leading(SCHEDULE, 10), []
    final = sampler(denoiser("v", grid), draw(0), grid.part(4), on_step=lambda index, x, x0: told.append((index, x.clone(), x0)))
    assert [index for index, _, _ in told] == [4, 5, 6, 7, 8, 9]
    assert torch.equal(told[-1][1], final)
    close(told[-1][2], final, 1e-12)

    def cancel(index: int, x: Tensor, x0: Tensor) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sampler(denoiser("v", grid), draw(0), grid, on_step=cancel)


def test_the_start_is_left_as_it_was() -> None:
    grid, x = samplers.leading(SCHEDULE, 5), draw(0)
    for sampler in (samplers.ddim, samplers.heun, samplers.dpm_solver_pp_2m):
        sampler(denoiser("v", grid), x, grid)
        assert torch.equal(x, draw(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_keep_their_dtype(dtype: torch.dtype) -> None:
    grid = samplers.leading(SCHEDULE, 20, 1)
    for sampler in (samplers.ddim, samplers.heun, samplers.dpm_solver_pp_2m):
        ours = sampler(denoiser("v", grid), draw(0).to(dtype), grid)
        assert ours.dtype == dtype
        close(ours, sampler(denoiser("v", grid), draw(0), grid), 1e-5 if dtype == torch.float32 else 0.1)


def test_inverting_and_sampling_gives_the_picture() -> None:
    grid = samplers.leading(SCHEDULE, 50, 1, end=0)
    denoise, picture = denoiser("v", grid), 0.5 * draw(3)
    errors = [
        (samplers.ddim(denoise, samplers.invert(denoise, picture, grid, iterations=iterations), grid) - picture).abs().max().item()
        for iterations in (1, 3, 20)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-6
    with pytest.raises(ValueError, match="sigma 0 forgets"):
        samplers.invert(denoise, picture, samplers.leading(SCHEDULE, 50))


def test_inverting_as_far_as_pure_noise() -> None:
    grid = samplers.trailing(diffusion.zero_terminal_snr(SCHEDULE), 50, end=0)
    denoise, picture = denoiser("v", grid), 0.5 * draw(3)
    noise = samplers.invert(denoise, picture, grid, iterations=40)
    close(samplers.ddim(denoise, noise, grid), picture, 1e-6)


def test_wrong_values_get_one_sentence() -> None:
    grid = samplers.leading(SCHEDULE, 5)
    denoise = denoiser("v", grid)
    with pytest.raises(ValueError, match=r"eta 1\.5 is not a share"):
        samplers.ddim(denoise, draw(0), grid, eta=1.5, noise=draw)
    with pytest.raises(ValueError, match="give `noise`"):
        samplers.ddim(denoise, draw(0), grid, eta=0.5)
    with pytest.raises(ValueError, match="a time this grid lacks"):
        samplers.heun(denoise, draw(0), samplers.leading(SCHEDULE, 5, 1, end=0))
