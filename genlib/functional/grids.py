"""Where a sampler asks its denoiser: noise levels from noise to data, and what the network is told at each.

Spacings carry the names the field gives them (Lin et al. 2023, arXiv:2305.08891, table 2), with the same times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genlib.functional.diffusion import Schedule, diffuse, shift_times


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """n steps between n + 1 noise levels, x_t = alpha x_0 + sigma noise; perhaps a part of a longer run."""

    time: Tensor
    """(n,) what the network is told at the first n levels; int64, or floating for times between a schedule's."""
    alpha: Tensor
    """(n + 1,) float64; the last is where sampling ends, 1 for a whole run."""
    sigma: Tensor
    """(n + 1,) float64; 0 at the end of a whole run."""
    whole: Grid | None = None
    """The run that this is a part of."""
    start: int = 0
    """Number of the first step in that run: what `noise` and `on_step` of a sampler count from."""

    def __post_init__(self) -> None:
        if not len(self.time) + 1 == len(self.alpha) == len(self.sigma):
            raise ValueError(
                f"a grid has a level more than times; here are {len(self.time)} times, {len(self.alpha)} alphas and {len(self.sigma)} sigmas"
            )

    def __len__(self) -> int:
        return len(self.time)

    @property
    def indices(self) -> range:
        """Numbers of its steps in the whole run."""
        return range(self.start, self.start + len(self))

    def part(self, first: int, last: int | None = None) -> Grid:
        """Steps first to last - 1. Sampling by part(0, k), then, perhaps with another network, by part(k), is one run: eDiff-I's and SDXL's
        hand-over between experts (Podell et al. 2023, arXiv:2307.01952). A picture noised to part(k)'s first level is changed in part:
        SDEdit (Meng et al. 2022, arXiv:2108.01073).
        """
        last = len(self) if last is None else last
        if not 0 <= first <= last <= len(self):
            raise ValueError(f"steps {first} to {last} are not a part of a grid of {len(self)}; use 0 <= first <= last <= {len(self)}")
        levels = slice(first, last + 1)
        return Grid(self.time[first:last], self.alpha[levels], self.sigma[levels], self if self.whole is None else self.whole, self.start + first)

    def strength(self, share: float) -> Grid:
        """The last steps, by which img2img changes a picture: a share of all, 0 (nothing) to 1 (all)."""
        if not 0 <= share <= 1:
            raise ValueError(f"strength {share} is not a share of the steps; use 0 (the picture stays) to 1 (nothing of it stays)")
        return self.part(len(self) - int(len(self) * share))

    def noised(self, x0: Tensor, noise: Tensor) -> Tensor:
        """A picture at the grid's first level. x0, noise (B, ...) -> (B, ...)."""
        return diffuse(x0, noise, self.alpha[0].item(), self.sigma[0].item())

    def times(self, x: Tensor) -> list[Tensor]:
        """The n times, each a tensor of no dimension on x's device."""
        return list(self.time.to(x.device).unbind())

    def levels(self) -> tuple[list[float], list[float]]:
        """alpha and sigma at the n + 1 levels."""
        return self.alpha.tolist(), self.sigma.tolist()


def at_times(schedule: Schedule, times: Sequence[float] | Tensor, end: int | None = None) -> Grid:
    """Asks at falling times of the schedule; between two whole ones sigma / alpha is interpolated. Ends clean, or at the level of time `end`."""
    time = torch.as_tensor(times, device="cpu")
    time = time.float() if time.is_floating_point() else time
    _check_times(time, len(schedule))
    schedule = schedule.to(time.device)
    alpha, sigma = schedule.levels(time)
    last = (alpha.new_ones(1), alpha.new_zeros(1)) if end is None else schedule.levels(torch.tensor([end]))
    return Grid(time, torch.cat([alpha, last[0]]), torch.cat([sigma, last[1]]))


def _check_times(time: Tensor, total: int) -> None:
    if len(time) == 0:
        raise ValueError("a grid needs at least one step; use steps of 1 or more")
    if (time.diff() >= 0).any():
        raise ValueError(f"{len(time)} steps do not fall from time to time in a schedule of {total}; use at most {total} times, the largest first")
    if time[0] > total - 1 or time[-1] < 0:
        raise ValueError(f"times {time[0]} to {time[-1]} leave a schedule whose times are 0 to {total - 1}; use fewer steps or a smaller offset")


def _numbers(steps: int) -> Tensor:
    """0 to steps - 1, float64."""
    if steps < 1:
        raise ValueError(f"{steps} steps ask the network nothing; use 1 or more")
    return torch.arange(steps, dtype=torch.float64)


def leading(schedule: Schedule, steps: int, offset: int = 0, end: int | None = None) -> Grid:
    """Multiples of T // steps, from 0 upwards, plus `offset` (the field's "steps_offset", 1 for Stable Diffusion): never the last time."""
    return at_times(schedule, (_numbers(steps).flip(0) * (len(schedule) // steps)).long() + offset, end)


def trailing(schedule: Schedule, steps: int, end: int | None = None) -> Grid:
    """From the last time downwards by T / steps: what a schedule with zero terminal SNR needs."""
    total, numbers = len(schedule), _numbers(steps)
    fall = total - (total - total / steps)  # rounded as numpy.arange rounds it, by which the field places times that end in a half
    return at_times(schedule, (total - numbers * fall).round().long() - 1, end)


def linspace(schedule: Schedule, steps: int, end: int | None = None) -> Grid:
    """From the last time to 0, rounded to whole times."""
    return at_times(schedule, _evenly(schedule, steps).round().long(), end)


def fractional(schedule: Schedule, steps: int) -> Grid:
    """From the last time to 0, not rounded: "linspace" as solvers over sigma / alpha take it; the network is told times between whole ones."""
    return at_times(schedule, _evenly(schedule, steps))


def _evenly(schedule: Schedule, steps: int) -> Tensor:
    """(steps,) float64 falling from the last time to 0, rounded as numpy.linspace rounds them; one step is the last time."""
    last, numbers = len(schedule) - 1, _numbers(steps)
    return (numbers * (last / (steps - 1))).flip(0) if steps > 1 else numbers + last


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Grid:
    """Levels at which (sigma / alpha)**(1 / rho) falls evenly (Karras et al. 2022, arXiv:2206.00364, equation 5), told as the times between."""
    ratio = (schedule.sigma / schedule.alpha).cpu()
    if not torch.isfinite(ratio[-1]):
        raise ValueError("Karras spacing needs a finite noise level to begin with, and this schedule ends in pure noise; use trailing")
    ends = torch.stack([ratio[-1], ratio[0]]) ** (1 / rho)
    levels = (ends[0] + _numbers(steps) / max(steps - 1, 1) * (ends[1] - ends[0])) ** rho
    high = torch.searchsorted(ratio, levels).clamp(1, len(schedule) - 1)
    time = high - 1 + ((levels - ratio[high - 1]) / (ratio[high] - ratio[high - 1])).clamp(0, 1)
    alpha = (1 + levels**2).rsqrt()
    return Grid(time.float(), torch.cat([alpha, alpha.new_ones(1)]), torch.cat([levels * alpha, alpha.new_zeros(1)]))


def flow_grid(steps: int, shift: float = 1.0, train_steps: int = 1000) -> Grid:
    """Rectified flow's levels, sigma = t and alpha = 1 - t, from noise to data; the network is told t * `train_steps`.

    t falls evenly from 1 to the smallest of `train_steps` times, is then shifted (see `shift_times`) and ends at 0. The smallest is itself
    a shifted time, as in the field's Stable Diffusion 3 scheduler.
    """
    smallest = shift_times(torch.tensor(1 / train_steps, dtype=torch.float64), shift)
    t = shift_times(1 - _numbers(steps) / max(steps - 1, 1) * (1 - smallest), shift)
    sigma = torch.cat([t, t.new_zeros(1)])
    return Grid((t * train_steps).float(), 1 - sigma, sigma)
