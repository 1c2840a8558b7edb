"""Samplers of diffusion and flow models: free functions f(denoiser, x, grid), from noise to data.

A denoiser says, at x_t = alpha x_0 + sigma noise, its estimate of x_0; the grid says where it is asked. All samplers share one step: the
estimate D is taken to be constant, and x' = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) D solves the probability-flow equation
exactly. With D the last estimate this is DDIM (Song et al. 2021, arXiv:2010.02502), Euler's method in x / alpha over sigma / alpha
(Karras et al. 2022, arXiv:2206.00364) and Euler's method along a rectified flow (Liu et al. 2022, arXiv:2209.03003), all the same numbers;
with D extrapolated, DPM-Solver++ 2M (Lu et al. 2022, arXiv:2211.01095). Part of the remaining noise drawn afresh is DDPM's posterior
(Ho et al. 2020, arXiv:2006.11239). No step divides by alpha, so that a grid may begin in pure noise (alpha = 0).

Coefficients are Python floats made ahead; x stays in the dtype and on the device it came in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from genlib.functional import step_callbacks
from genlib.functional.grids import Grid, at_times, flow_grid, fractional, karras, leading, linspace, trailing

__all__ = [
    "Denoiser",
    "Grid",
    "Noise",
    "OnStep",
    "ancestral",
    "at_times",
    "ddim",
    "dpm_solver_pp_2m",
    "euler",
    "flow_euler",
    "flow_grid",
    "fractional",
    "heun",
    "invert",
    "karras",
    "leading",
    "linspace",
    "reflow_pairs",
    "trailing",
]

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), time ()) -> estimate of x_0 (B, ...)."""
Noise = Callable[[int], Tensor]
"""Step's number in the whole run -> standard normal numbers shaped like x."""
OnStep = Callable[[int, Tensor, Tensor], None]
"""(step's number in the whole run, x after it, the estimate of x_0 it used); may raise to cancel."""


def ddim(denoiser: Denoiser, x: Tensor, grid: Grid, *, eta: float = 0.0, noise: Noise | None = None, on_step: OnStep | None = None) -> Tensor:
    """DDIM. x (B, ...) at the grid's first level -> (B, ...) at its last.

    eta from 0, deterministic, to 1, the posterior of the forward process; above 0 it needs `noise`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta} is not a share of the posterior's noise; use 0 (deterministic) to 1 (ancestral)")
    if eta > 0 and noise is None:
        raise ValueError(f"eta {eta} draws new noise at every step; give `noise`, a function of the step's number, or use eta 0")
    for index, time, (keep, move, fresh) in zip(grid.indices, grid.times(x), _coefficients(grid, eta), strict=True):
        x0 = denoiser(x, time)
        x = (x * keep).add_(x0, alpha=move)
        if fresh > 0 and noise is not None:
            x = x.add_(noise(index), alpha=fresh)
        if on_step:
            on_step(index, x, x0)
        step_callbacks.after_step(index - grid.start, len(grid), x, x0)
    return x


def ancestral(denoiser: Denoiser, x: Tensor, grid: Grid, *, noise: Noise, on_step: OnStep | None = None) -> Tensor:
    """DDPM's sampler with the posterior's own variance (Ho et al. 2020, equation 7), between any two levels of the grid.

    The same as DDIM with eta 1 and as the "Euler ancestral" of k-diffusion.
    """
    return ddim(denoiser, x, grid, eta=1.0, noise=noise, on_step=on_step)


def euler(denoiser: Denoiser, x: Tensor, grid: Grid, *, on_step: OnStep | None = None) -> Tensor:
    """Euler's method for d(x / alpha) / d(sigma / alpha) (Karras et al. 2022, equation 1): order 1, the same numbers as `ddim`."""
    return ddim(denoiser, x, grid, on_step=on_step)


def flow_euler(denoiser: Denoiser, x: Tensor, grid: Grid, *, on_step: OnStep | None = None) -> Tensor:
    """Euler's method for dx / dt = velocity over a `flow` grid: order 1. The velocity is (x - x_0) / t; so here, too, the same numbers as `ddim`."""
    return ddim(denoiser, x, grid, on_step=on_step)


def heun(denoiser: Denoiser, x: Tensor, grid: Grid, *, on_step: OnStep | None = None) -> Tensor:
    """Heun's method for d(x / alpha) / d(sigma / alpha) (Karras et al. 2022, algorithm 1): order 2, two calls a step.

    Steps from alpha = 0 or to sigma = 0 are Euler's, for there the slope at one end does not exist. It wants levels that fall smoothly,
    such as `karras`: over the last times of a cosine schedule, where sigma / alpha falls a hundredfold in a step, it overshoots.
    """
    alpha, sigma = grid.levels()
    times = grid.times(x)
    if sigma[-1] > 0:
        times.append(_time_after(grid, x))
    for i, (keep, move, _) in enumerate(_coefficients(grid, 0.0)):
        x0 = denoiser(x, times[i])
        following = (x * keep).add_(x0, alpha=move)
        if alpha[i] > 0 and sigma[i + 1] > 0:
            share = (1 - sigma[i] * alpha[i + 1] / (alpha[i] * sigma[i + 1])) / 2
            corrected = (following * (0.5 + share)).add_(x, alpha=alpha[i + 1] / alpha[i] / 2)
            following = corrected.add_(denoiser(following, times[i + 1]), alpha=-share * alpha[i + 1])
        x = following
        if on_step:
            on_step(grid.start + i, x, x0)
        step_callbacks.after_step(i, len(grid), x, x0)
    return x


def dpm_solver_pp_2m(denoiser: Denoiser, x: Tensor, grid: Grid, *, previous: Tensor | None = None, on_step: OnStep | None = None) -> Tensor:
    """DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2): order 2 with one call a step, by extrapolating from the last two estimates.

    The first step of a run, one after pure noise and one to sigma = 0 are of order 1. `previous`, the estimate (B, ...) of the step before
    a part's first, makes two parts equal one run; `on_step` hands it out.
    """
    rates = _extrapolations(grid)
    for index, time, (keep, move, _), rate in zip(grid.indices, grid.times(x), _coefficients(grid, 0.0), rates, strict=True):
        x0 = denoiser(x, time)
        estimate = x0 if previous is None or rate == 0 else x0.lerp(previous, -rate)
        x = (x * keep).add_(estimate, alpha=move)
        previous = x0
        if on_step:
            on_step(index, x, x0)
        step_callbacks.after_step(index - grid.start, len(grid), x, x0)
    return x


def invert(denoiser: Denoiser, x: Tensor, grid: Grid, *, iterations: int = 3) -> Tensor:
    """The noise of which `ddim` makes x: the way back for text-guided editing. x (B, ...) at the grid's last level -> (B, ...) at its first.

    Each step is solved by fixed-point iteration (Pan et al. 2023, arXiv:2309.04907), one call each;
    the first is the usual approximation, that the noise estimate is the same at both ends.
    """
    if grid.sigma[-1] == 0:
        raise ValueError("a step to sigma 0 forgets where it came from; invert over grid.part(0, len(grid) - 1) or a grid with an `end`")
    alpha, _ = grid.levels()
    times = grid.times(x)
    for i, (keep, move, _) in reversed(list(enumerate(_coefficients(grid, 0.0)))):
        rate = alpha[i] / alpha[i + 1] or 1 / keep  # holds the noise estimate, whose slope contracts; in pure noise the estimate of x_0
        after = x
        for _ in range(iterations):
            x = x + rate * (after - keep * x - move * denoiser(x, times[i]))
        step_callbacks.after_step(len(grid) - 1 - i, len(grid), x)
    return x


def reflow_pairs(denoiser: Denoiser, noise: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """(data, noise) joined by the model's own paths, on which the next rectified flow is trained (Liu et al. 2022, section 2.2). (B, ...) each."""
    return flow_euler(denoiser, noise, grid), noise


def _coefficients(grid: Grid, eta: float) -> list[tuple[float, float, float]]:
    """Each step's weights of x, of the estimate of x_0 and of fresh noise, whose variance is eta**2 times the posterior's."""
    alpha, sigma = grid.levels()
    steps = []
    for a, s, a_next, s_next in zip(alpha, sigma, alpha[1:], sigma[1:], strict=False):
        fresh = eta * s_next / s * math.sqrt(max(s**2 - (a / a_next * s_next) ** 2, 0.0))
        kept = math.sqrt(max(s_next**2 - fresh**2, 0.0)) / s
        steps.append((kept, a_next - a * kept, fresh))
    return steps


def _extrapolations(grid: Grid) -> list[float]:
    """For each step h / (2 h_before), h the growth of log(alpha / sigma); 0 where the estimate is taken as it is."""
    whole = grid.whole or grid
    log_ratio = [math.log(a / s) if a > 0 and s > 0 else math.copysign(math.inf, a - s) for a, s in zip(*whole.levels(), strict=True)]
    rates = [0.0]
    for before, here, after in zip(log_ratio, log_ratio[1:], log_ratio[2:], strict=False):
        rates.append(0.0 if math.isinf(after) else (after - here) / (here - before) / 2)
    return rates[grid.start : grid.start + len(grid)]


def _time_after(grid: Grid, x: Tensor) -> Tensor:
    """The time at the level where a part ends and the whole run goes on."""
    after = grid.start + len(grid)
    if grid.whole is None or after >= len(grid.whole):
        raise ValueError("Heun's step to a level above zero asks the network there, at a time this grid lacks; end the grid at sigma 0 or use ddim")
    return grid.whole.time[after].to(x.device)
