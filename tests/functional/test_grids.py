"""Spacings against diffusers' timesteps and noise levels, and parts of a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genlib.functional import diffusion, grids
from genlib.functional.grids import Grid

SCHEDULE = diffusion.scaled_linear()


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_times_equal_diffusers_for_every_number_of_steps(spacing: str) -> None:
    from diffusers import DDIMScheduler

    offset = 1 if spacing == "leading" else 0
    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    for steps in range(2, 1001):
        if steps == 1000 and offset:
            continue
        theirs.set_timesteps(steps)
        make = getattr(grids, spacing)
        ours = make(SCHEDULE, steps, offset) if offset else make(SCHEDULE, steps)
        if len(theirs.timesteps) == steps:  # theirs adds up a step that is no binary fraction
            assert ours.time.tolist() == theirs.timesteps.tolist()


def test_one_step_starts_from_noise() -> None:
    assert grids.linspace(SCHEDULE, 1).time.tolist() == [999]
    assert grids.trailing(SCHEDULE, 1).time.tolist() == [999]


def test_fractional_times_equal_diffusers() -> None:
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(timestep_spacing="linspace")
    theirs.alphas_cumprod = SCHEDULE.alpha**2
    theirs.set_timesteps(7)
    ours = grids.fractional(SCHEDULE, 7)
    torch.testing.assert_close(ours.time, theirs.timesteps)
    torch.testing.assert_close((ours.sigma / ours.alpha).float(), theirs.sigmas, rtol=1e-5, atol=1e-6)


def test_karras_levels_equal_diffusers() -> None:
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(timestep_spacing="linspace", use_karras_sigmas=True)
    theirs.alphas_cumprod = SCHEDULE.alpha**2
    theirs.set_timesteps(1000)
    ours = grids.karras(SCHEDULE, 1000)
    torch.testing.assert_close((ours.sigma / ours.alpha).float(), theirs.sigmas, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.time, theirs.timesteps, rtol=0, atol=0.05)  # theirs interpolates the logarithm
    alpha, sigma = SCHEDULE.levels(ours.time.double())
    torch.testing.assert_close((sigma / alpha)[::50], (ours.sigma / ours.alpha)[:-1][::50], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_flow_levels_equal_diffusers(shift: float, steps: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(steps)
    ours = grids.flow_grid(steps, shift)
    torch.testing.assert_close(ours.sigma.float(), theirs.sigmas, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.time, theirs.timesteps, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours.alpha, 1 - ours.sigma)


def test_ends() -> None:
    assert (grids.leading(SCHEDULE, 5).alpha[-1], grids.leading(SCHEDULE, 5).sigma[-1]) == (1, 0)
    kept = grids.leading(SCHEDULE, 5, 1, end=0)
    assert (kept.alpha[-1], kept.sigma[-1]) == (SCHEDULE.alpha[0], SCHEDULE.sigma[0])


def test_parts_know_where_they_are() -> None:
    grid = grids.trailing(SCHEDULE, 10)
    first, second = grid.part(0, 4), grid.part(4)
    assert torch.equal(torch.cat([first.time, second.time]), grid.time)
    assert first.sigma[-1] == second.sigma[0] == grid.sigma[4]
    assert second.part(2).whole is grid
    assert list(second.part(2, 5).indices) == [6, 7, 8]
    assert grid.part(3, 3).times(torch.zeros(1)) == []


def test_strength_is_a_share_of_the_steps() -> None:
    grid = grids.trailing(SCHEDULE, 50)
    assert len(grid.strength(0.3)) == 15
    assert list(grid.strength(0.3).indices) == list(range(35, 50))
    assert len(grid.strength(0)) == 0
    assert torch.equal(grid.strength(1).time, grid.time)
    x0, noise = torch.full((2, 3), 2.0), torch.ones(2, 3)
    part = grid.strength(0.5)
    torch.testing.assert_close(part.noised(x0, noise), (2 * part.alpha[0] + part.sigma[0]).float().expand(2, 3))


def test_pure_noise_first() -> None:
    grid = grids.trailing(diffusion.zero_terminal_snr(SCHEDULE), 4)
    assert (grid.alpha[0], grid.sigma[0]) == (0, 1)
    assert np.isfinite(grid.sigma).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grids.leading(SCHEDULE, 0), "0 steps ask the network nothing"),
        (lambda: grids.trailing(SCHEDULE, -3), "-3 steps ask"),
        (lambda: grids.linspace(SCHEDULE, 1001), "at most 1000"),
        (lambda: grids.leading(SCHEDULE, 2000), "at most 1000"),
        (lambda: grids.leading(SCHEDULE, 1000, 1), "smaller offset"),
        (lambda: grids.at_times(SCHEDULE, [3, 8]), "largest first"),
        (lambda: grids.flow_grid(0), "0 steps ask"),
        (lambda: grids.flow_grid(4, shift=-1.0), "time shift -1.0"),
        (lambda: grids.karras(diffusion.zero_terminal_snr(SCHEDULE), 5), "use trailing"),
        (lambda: grids.leading(SCHEDULE, 5).part(3, 9), "not a part of a grid of 5"),
        (lambda: grids.leading(SCHEDULE, 5).strength(1.5), "strength 1.5"),
        (lambda: Grid(torch.arange(3), torch.ones(3), torch.ones(3)), "a level more than times"),
    ],
)
def test_wrong_values_get_one_sentence(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
