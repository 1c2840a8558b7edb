"""What we export draws in diffusers what it draws here, with any number of steps, or its card says with which.

diffusers 0.42.1: its trailing spacing gives 62 times for 61 of 1,000 steps, the last of them -1.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genlib.functional import diffusion
from genlib.functional.samplers import ddim, trailing
from genlib.models.diffusion.base.pixels import PixelUNet
from genlib.models.diffusion.base.process import DiscreteConfig, denoiser, steps_with_a_time_too_many
from genlib.models.diffusion.ddpm import DDPMConfig
from genlib.models.diffusion.ddpm_export import described
from genlib.models.diffusion.latent_export import asked_once_more, write_scheduler
from genlib.types import DataSpec

PROCESSES = [
    DiscreteConfig(beta_schedule="scaled_linear"),
    DiscreteConfig(beta_schedule="scaled_linear", prediction="v"),
    DiscreteConfig(beta_schedule="scaled_linear", prediction="v", zero_terminal_snr=True),
    DiscreteConfig(beta_schedule="linear", prediction="x0", timesteps=250),
]
UNET = PixelUNet(widths=(16, 16), norm_groups=4)
WEIGHT = 0.3 * torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))


def network(prediction: str, x: Tensor, time: Tensor) -> Tensor:
    """Anything smooth; an estimate of the picture is nearly the picture where there is hardly any noise."""
    if prediction == "x0":
        return x / (1 + (time.float().view(-1, 1) / 20) ** 2)
    return torch.tanh(x @ WEIGHT + torch.sin(time.float().view(-1, 1) / 160)) + 0.3 * x


@pytest.mark.parametrize("process", PROCESSES, ids=["epsilon", "v", "zero terminal", "x0"])
def test_the_exported_sampler_is_ours_with_any_number_of_steps(process: DiscreteConfig, tmp_path: Path) -> None:
    import diffusers

    theirs = getattr(diffusers, write_scheduler(process, tmp_path)).from_pretrained(tmp_path)
    too_many = steps_with_a_time_too_many(process.timesteps)
    schedule, predict = process.schedule(), partial(network, process.prediction)
    for steps in (1, 2, 7, 50, 60, *too_many[:3], 243, process.timesteps):
        theirs.set_timesteps(steps)
        assert len(theirs.timesteps) - steps == (steps in too_many)
        x = NOISE * theirs.init_noise_sigma
        for time in theirs.timesteps:
            x = theirs.step(predict(theirs.scale_model_input(x, time), time.expand(4)), time, x).prev_sample
        ours = ddim(denoiser(predict, process, schedule), NOISE.clone(), trailing(schedule, steps))
        assert (x - ours).abs().max() < (1e-2 if steps in too_many else 1e-3), steps


@pytest.mark.parametrize("levels", [100, 250, 997, 1000])
def test_the_numbers_that_the_cards_name_are_those_of_diffusers(levels: int) -> None:
    wrong = [steps for steps in range(1, levels + 1) if len(np.arange(levels, 0, -levels / steps)) != steps]
    assert steps_with_a_time_too_many(levels) == wrong
    schedule = diffusion.linear(levels)
    for steps in wrong:
        time = trailing(schedule, steps).time
        assert (len(time), time[0].item()) == (steps, levels - 1)
        assert time.min() >= 0


def test_cards_say_which_numbers_of_steps_are_right() -> None:
    assert "with 62 of these (61, 103, 121 ...) diffusers asks once more" in asked_once_more(1000)
    assert asked_once_more(8) == ""
    task = DDPMConfig(unet=UNET).build(DataSpec(channels=1, image_size=8), {})
    about = described(task, task.net, "diffusers", "").about
    assert "Give a number of steps that divides 1000" in about
    assert "with 62 of them (61, 103, 121 ...) both pipelines ask at a time -1" in about


@pytest.mark.parametrize("steps", [60, 61, 103, 121])
def test_our_own_sampler_asks_at_as_many_times_as_it_has_steps(steps: int) -> None:
    task = DDPMConfig(unet=UNET).build(DataSpec(channels=1, image_size=8), {}).eval()
    asked: list[int] = []
    task.net.register_forward_pre_hook(lambda net, arguments: asked.append(int(arguments[1].flatten()[0])))
    assert task.generate(seed=[1], steps=steps).isfinite().all()
    assert len(asked) == steps
    assert (asked[0], min(asked)) == (999, asked[-1])
    assert asked[-1] >= 0
