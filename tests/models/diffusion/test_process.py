"""The discrete process: loss, its weights and times, denoisers and noise by seed."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor

from genlib.functional.samplers import ddim, trailing
from genlib.models.diffusion.base.process import DiscreteConfig, denoiser, denoising_loss, draw
from genlib.random import seeded_normal
from genlib.types import Step

CONFIGS = [
    DiscreteConfig(),
    DiscreteConfig(beta_schedule="scaled_linear", prediction="v", zero_terminal_snr=True),
    DiscreteConfig(beta_schedule="cosine", prediction="x0", timesteps=400),
    DiscreteConfig(beta_start=0.001, beta_end=0.01, prediction="v"),
]
POSITION = torch.arange(4096)


def batch(size: int) -> dict[str, Tensor]:
    return {"position": torch.arange(size)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.beta_schedule}-{config.prediction}")
def test_levels_are_those_of_diffusers_with_the_config_it_gives(config: DiscreteConfig) -> None:
    theirs = diffusers.DDIMScheduler(**config.scheduler_config())
    torch.testing.assert_close(config.schedule().alpha.square().float(), theirs.alphas_cumprod, atol=2e-6, rtol=1e-4)


def test_a_network_that_says_nothing_has_the_loss_of_the_targets_variance() -> None:
    config, x0 = DiscreteConfig(), torch.zeros(4096, 2, 4, 4)
    loss, metrics = denoising_loss(lambda x, time: torch.zeros_like(x), x0, batch(4096), Step(0, 1), config, config.schedule())
    assert loss.shape == (4096,)
    assert loss.mean().item() == pytest.approx(1.0, abs=0.01)
    assert not metrics


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.beta_schedule}-{config.prediction}")
def test_a_network_that_knows_the_data_has_no_loss_and_is_sampled_to_it(config: DiscreteConfig) -> None:
    schedule, known = config.schedule(), torch.full((8, 1, 4, 4), 0.5)

    def oracle(x: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = schedule.at(time, x)
        noise = (x - alpha * known) / sigma
        return {"epsilon": noise, "x0": known, "v": alpha * noise - sigma * known}[config.prediction]

    loss, _ = denoising_loss(oracle, known, batch(8), Step(0, 1), config, schedule)
    assert loss.max() < 1e-6
    estimate = denoiser(oracle, config, schedule)
    torch.testing.assert_close(ddim(estimate, seeded_normal(range(8), (1, 4, 4)), trailing(schedule, 10)), known, atol=1e-4, rtol=0)


def test_a_denoiser_stands_between_two_times() -> None:
    config = DiscreteConfig()
    estimate, x = denoiser(lambda x, time: torch.zeros_like(x), config, config.schedule()), torch.ones(1, 1, 2, 2)
    low, middle, high = (estimate(x, torch.tensor(time)).mean().item() for time in (300, 300.5, 301))
    assert low < middle < high
    assert estimate(x, torch.tensor(300.0)).mean().item() == pytest.approx(low)


def test_times_and_noise_belong_to_the_position_and_not_to_the_batch() -> None:
    config, x0 = DiscreteConfig(offset_noise=0.1), torch.zeros(4096, 1, 4, 4)
    time, noise = draw(POSITION, x0, config, seed=3)
    part_time, part_noise = draw(POSITION[100:200], x0[:100], config, seed=3)
    assert torch.equal(part_time, time[100:200])
    assert torch.equal(part_noise, noise[100:200])
    assert not torch.equal(draw(POSITION, x0, config, seed=4)[0], time)
    assert time.min() < 5
    assert time.max() > 994
    assert time.float().mean().item() == pytest.approx(499.5, abs=15)


def test_a_refiners_times_are_its_share() -> None:
    time, _ = draw(POSITION, torch.zeros(4096, 1), DiscreteConfig(), seed=0, times=(0.0, 0.2))
    assert (time.min().item(), time.max().item()) == (0, 199)
    with pytest.raises(ValueError, match="share of the schedule"):
        draw(POSITION, torch.zeros(4096, 1), DiscreteConfig(), seed=0, times=(0.5, 0.2))


def test_offset_noise_moves_whole_channels() -> None:
    x0 = torch.zeros(4096, 2, 16, 16)
    means = draw(POSITION, x0, DiscreteConfig(offset_noise=0.5), seed=0)[1].mean((2, 3))
    assert means.std().item() == pytest.approx((0.25 + 1 / 256) ** 0.5, rel=0.03)
    assert torch.corrcoef(means.T)[0, 1].abs() < 0.05


def test_min_snr_weighs_little_noise_less_and_logs_the_plain_error() -> None:
    x0, network = torch.zeros(4096, 1, 2, 2), lambda x, time: torch.zeros_like(x)
    plain, weighted = DiscreteConfig(), DiscreteConfig(min_snr_gamma=5.0)
    schedule = plain.schedule()
    without, _ = denoising_loss(network, x0, batch(4096), Step(0, 1), plain, schedule)
    loss, metrics = denoising_loss(network, x0, batch(4096), Step(0, 1), weighted, schedule)
    time, _ = draw(torch.arange(4096), x0, plain, seed=0)
    expected = (5 / schedule.snr(time)).clamp(max=1)
    torch.testing.assert_close(loss / without, expected)
    torch.testing.assert_close(metrics["mse"], without)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"zero_terminal_snr": True}, "set prediction to v or x0"),
        ({"beta_schedule": "cosine", "beta_end": 0.5}, "cosine schedule has no beta_start"),
        ({"beta_start": 0.5}, "is not below beta_end"),
        ({"timesteps": 1}, "at least 2"),
    ],
)
def test_refuses_in_a_sentence(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DiscreteConfig(**settings)
