"""The forward process against its own iteration, diffusers' schedules and published formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genlib.functional import diffusion
from genlib.functional.diffusion import Schedule

KINDS = ("epsilon", "x0", "v")
SCHEDULES = {"linear": diffusion.linear, "scaled_linear": diffusion.scaled_linear, "squaredcos_cap_v2": diffusion.cosine}


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_diffusers(name: str) -> None:
    from diffusers import DDPMScheduler

    ours = SCHEDULES[name]()
    ends = {"beta_start": 0.00085, "beta_end": 0.012} if name == "scaled_linear" else {}
    theirs = DDPMScheduler(beta_schedule=name, **ends).alphas_cumprod.double()
    torch.testing.assert_close(ours.alpha**2, theirs, rtol=1e-4, atol=2e-6)  # theirs is a product of 1000 float32
    torch.testing.assert_close(ours.alpha**2 + ours.sigma**2, torch.ones(1000, dtype=torch.float64))
    assert (ours.alpha.diff() < 0).all()
    assert (ours.sigma.diff() > 0).all()


def test_the_linear_schedule_ends_in_noise() -> None:
    assert diffusion.linear().alpha[-1] ** 2 < 1e-3
    assert diffusion.cosine().alpha[-1] ** 2 < 1e-3


def test_iterating_the_forward_process_gives_the_closed_form() -> None:
    steps, count = 50, 20_000
    schedule = diffusion.linear(steps, 1e-3, 0.05)
    kept = (schedule.alpha**2 / torch.cat([torch.ones(1), schedule.alpha[:-1] ** 2])).tolist()
    x = start = torch.full((count,), 2.0, dtype=torch.float64)
    for step, share in enumerate(kept):
        x = math.sqrt(share) * x + math.sqrt(1 - share) * draws(count, seed=step)
    closed = diffusion.diffuse(start, draws(count, seed=99), schedule.alpha[-1], schedule.sigma[-1])
    alpha, variance = schedule.alpha[-1].item(), schedule.sigma[-1].item() ** 2
    for drawn in (x, closed):
        assert drawn.mean().item() == pytest.approx(2 * alpha, abs=4 * math.sqrt(variance / count))
        assert drawn.var().item() == pytest.approx(variance, rel=0.04)


def test_levels_broadcast_in_the_dtype_of_the_picture() -> None:
    schedule = diffusion.cosine()
    image = torch.zeros(3, 4, 8, 8, dtype=torch.bfloat16)
    alpha, sigma = schedule.at(torch.tensor([0, 500, 999]), image)
    assert alpha.shape == sigma.shape == (3, 1, 1, 1)
    assert alpha.dtype == sigma.dtype == torch.bfloat16
    one, _ = schedule.at(torch.tensor(500), image.double())
    assert one.shape == (1, 1, 1, 1)
    assert one.item() == schedule.alpha[500].item()
    torch.testing.assert_close(schedule.snr(torch.tensor([500])), ((schedule.alpha / schedule.sigma) ** 2)[[500]].float())


def test_levels_between_times() -> None:
    schedule = diffusion.zero_terminal_snr(diffusion.linear(10))
    alpha, sigma = schedule.levels(torch.tensor([0.0, 3.25, 8.0, 8.5, 9.0]))
    ratio = schedule.sigma / schedule.alpha
    torch.testing.assert_close((sigma / alpha)[1], 0.75 * ratio[3] + 0.25 * ratio[4])
    torch.testing.assert_close(torch.stack([alpha[0], alpha[2]]), schedule.alpha[[0, 8]])
    assert alpha[3:].tolist() == [0, 0]
    assert sigma[3:].tolist() == [1, 1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_zero_terminal_snr_equals_diffusers(name: str) -> None:
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    schedule = SCHEDULES[name]()
    before = torch.cat([torch.ones(1), schedule.alpha[:-1] ** 2])
    theirs = torch.cumprod(1 - rescale_zero_terminal_snr(1 - schedule.alpha**2 / before), 0)
    ours = diffusion.zero_terminal_snr(schedule)
    torch.testing.assert_close(ours.alpha**2, theirs, rtol=1e-9, atol=1e-12)
    assert ours.alpha[-1] == 0
    assert ours.sigma[-1] == 1
    assert ours.alpha[0].item() == pytest.approx(schedule.alpha[0].item(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("time", [0, 400, 999])
def test_what_a_network_says_means_the_data_and_the_noise(kind: diffusion.Prediction, time: int) -> None:
    schedule = diffusion.zero_terminal_snr(diffusion.scaled_linear())
    if kind == "epsilon" and time == 999:
        return
    x0, noise = draws(2, 3, 4, 4), draws(2, 3, 4, 4, seed=1)
    alpha, sigma = schedule.at(torch.tensor([time, time]), x0)
    x_t = diffusion.diffuse(x0, noise, alpha, sigma)
    said = diffusion.target(kind, x0, noise, alpha, sigma)
    torch.testing.assert_close(diffusion.to_x0(kind, said, x_t, alpha, sigma), x0)
    torch.testing.assert_close(diffusion.to_epsilon(kind, said, x_t, alpha, sigma), noise, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(diffusion.from_x0(kind, x0, x_t, alpha, sigma), said, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_the_data_at_both_ends(kind: diffusion.Prediction) -> None:
    x0, noise = draws(5), draws(5, seed=1)
    for alpha, sigma in ((0.0, 1.0), (1.0, 0.0)):
        said = diffusion.target(kind, x0, noise, alpha, sigma)
        torch.testing.assert_close(diffusion.to_x0(kind, said, diffusion.diffuse(x0, noise, alpha, sigma), alpha, sigma), x0)


def test_v_equals_diffusers() -> None:
    from diffusers import DDPMScheduler

    schedule, x0, noise, time = diffusion.linear(), draws(3, 2, 4, 4).float(), draws(3, 2, 4, 4, seed=1).float(), torch.tensor([0, 10, 999])
    theirs = DDPMScheduler()
    levels = schedule.at(time, x0)
    torch.testing.assert_close(diffusion.target("v", x0, noise, *levels), theirs.get_velocity(x0, noise, time), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(diffusion.diffuse(x0, noise, *levels), theirs.add_noise(x0, noise, time), rtol=1e-4, atol=1e-5)


def test_epsilon_says_nothing_at_zero_snr() -> None:
    zero = diffusion.zero_terminal_snr(diffusion.linear())
    with pytest.raises(ValueError, match=r"terminal SNR of zero; use v or x0"):
        diffusion.check_prediction("epsilon", zero)
    diffusion.check_prediction("v", zero)
    diffusion.check_prediction("epsilon", diffusion.linear())


def test_min_snr_weights_are_the_published_ones() -> None:
    snr = torch.tensor([0.0, 0.01, 1.0, 4.9, 5.0, 100.0])
    expected_x0 = [0, 0.01, 1, 4.9, 5, 5]
    assert diffusion.min_snr_weight(snr, 5.0, "x0").tolist() == pytest.approx(expected_x0)
    assert diffusion.min_snr_weight(snr, 5.0, "epsilon").tolist() == pytest.approx([1, 1, 1, 1, 1, 0.05])
    assert diffusion.min_snr_weight(snr, 5.0, "v").tolist() == pytest.approx([w / (s + 1) for w, s in zip(expected_x0, snr.tolist(), strict=True)])
    with pytest.raises(ValueError, match="gamma 0 would weigh"):
        diffusion.min_snr_weight(snr, 0, "v")


@pytest.mark.parametrize("weight", [diffusion.simple_weight, diffusion.edm_weight, lambda snr, kind: diffusion.min_snr_weight(snr, 5.0, kind)])
def test_a_weight_makes_one_loss_of_all_kinds(weight) -> None:
    """A network's error in its own words, weighted, does not depend on the words."""
    schedule, x0, noise, guess = diffusion.cosine(), draws(4, 6), draws(4, 6, seed=1), draws(4, 6, seed=2)
    time = torch.tensor([3, 200, 700, 990])
    alpha, sigma = schedule.at(time, x0)
    x_t, snr, losses = diffusion.diffuse(x0, noise, alpha, sigma), (alpha / sigma).squeeze(1) ** 2, []
    for kind in KINDS:
        said = diffusion.from_x0(kind, guess, x_t, alpha, sigma)
        error = (said - diffusion.target(kind, x0, noise, alpha, sigma)).square().mean(1)
        losses.append(weight(snr, kind) * error)
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_edm_weights_are_the_published_ones() -> None:
    level = torch.tensor([0.1, 1.0, 20.0])
    published = (level**2 + 0.5**2) / (level * 0.5) ** 2
    torch.testing.assert_close(diffusion.edm_weight(level**-2, "x0", data_std=0.5), published)


def test_offset_noise_moves_each_channel_as_one() -> None:
    noise, offset = draws(2, 3, 4, 4), draws(2, 3, seed=1)
    moved = diffusion.offset_noise(noise, offset, 0.1) - noise
    torch.testing.assert_close(moved, (0.1 * offset)[:, :, None, None].expand(2, 3, 4, 4))
    assert torch.equal(diffusion.offset_noise(noise, offset, 0.0), noise)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 1.4)])
def test_times_are_logit_normal(mean: float, std: float) -> None:
    from scipy import stats

    time = diffusion.logit_normal(draws(20_000), mean, std)
    assert 0 < time.min() < time.max() < 1
    assert stats.kstest(torch.logit(time).numpy(), "norm", args=(mean, std)).pvalue > 0.01
    assert stats.kstest(time.numpy(), lambda t: stats.norm.cdf(torch.logit(torch.as_tensor(t)).numpy(), mean, std)).pvalue > 0.01
    assert stats.kstest(time.numpy(), "uniform").pvalue < 1e-6


def test_shifting_times_scales_the_noise_ratio() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    shifted = diffusion.shift_times(t, 3.0)
    torch.testing.assert_close((shifted / (1 - shifted))[:-1], 3 * (t / (1 - t))[:-1])
    torch.testing.assert_close(diffusion.shift_times(shifted, 1 / 3), t)
    assert shifted[[0, -1]].tolist() == [0, 1]
    with pytest.raises(ValueError, match="time shift 0 turns"):
        diffusion.shift_times(t, 0)


def test_velocity_is_the_slope_of_the_line_and_leads_back() -> None:
    x0, noise, t = draws(4, 3, 2, 2), draws(4, 3, 2, 2, seed=1), torch.tensor([0.0, 0.3, 0.7, 1.0])
    slope = (diffusion.interpolate(x0, noise, t + 1e-3) - diffusion.interpolate(x0, noise, t)) / 1e-3
    torch.testing.assert_close(slope, diffusion.velocity(x0, noise), rtol=1e-3, atol=1e-3)
    x_t = diffusion.interpolate(x0, noise, t)
    torch.testing.assert_close(diffusion.to_x0_from_velocity(diffusion.velocity(x0, noise), x_t, t), x0)
    assert torch.equal(x_t[0], x0[0])
    assert torch.equal(x_t[3], noise[3])


def test_straightness_of_a_line_and_of_a_parabola() -> None:
    t = torch.linspace(1, 0, 2001, dtype=torch.float64)
    line = draws(2, 3) + t[:, None, None] * draws(2, 3, seed=1)
    torch.testing.assert_close(diffusion.straightness(line, t), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    parabola = t[:, None, None] ** 2 * torch.ones(2, 3)
    torch.testing.assert_close(diffusion.straightness(parabola, t), torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=0)  # 3 times 1/3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diffusion.linear(0), "schedule of 0 steps"),
        (lambda: diffusion.linear(10, 0.5, 0.1), "from 0.5 to 0.1"),
        (lambda: diffusion.scaled_linear(10, 0.0, 0.1), "from 0.0 to 0.1"),
        (lambda: diffusion.cosine(10, max_beta=1.0), "from 1.0 to 1.0"),
        (lambda: diffusion.zero_terminal_snr(diffusion.linear(1)), "one step cannot end"),
    ],
)
def test_wrong_values_get_one_sentence(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_schedule_moves_between_devices() -> None:
    moved = diffusion.linear(5).to("cpu")
    assert isinstance(moved, Schedule)
    assert len(moved) == 5
