"""Samplers by the names that users give, for every family of discrete diffusion."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from genlib.functional import samplers
from genlib.functional.samplers import Denoiser, Grid, OnStep
from genlib.models.diffusion.process import SeededNoise

SamplerName = Literal["ddim", "ancestral", "heun", "dpm_solver_pp_2m"]
"""ddim (Euler's method), heun (two calls a step) and dpm_solver_pp_2m are functions of the first noise; ancestral adds some at every step."""
_DETERMINISTIC = {"ddim": samplers.ddim, "heun": samplers.heun, "dpm_solver_pp_2m": samplers.dpm_solver_pp_2m}


def sample(denoiser: Denoiser, noise: SeededNoise, grid: Grid, sampler: SamplerName = "ddim", on_step: OnStep | None = None) -> Tensor:
    """Samples of noise's shape, from pure noise through the grid."""
    return walk(sampler, denoiser, noise(), grid, noise, on_step)


def walk(sampler: SamplerName, denoiser: Denoiser, x: Tensor, grid: Grid, noise: SeededNoise, on_step: OnStep | None = None) -> Tensor:
    """x (B, ...) at the grid's first level -> (B, ...) at its last; `noise` is what a sampler adds on the way that does so."""
    if sampler == "ancestral":
        return samplers.ancestral(denoiser, x, grid, noise=noise, on_step=on_step)
    if sampler not in _DETERMINISTIC:
        raise ValueError(f"there is no sampler {sampler!r}; use ancestral, {', '.join(_DETERMINISTIC)}")
    return _DETERMINISTIC[sampler](denoiser, x, grid, on_step=on_step)
