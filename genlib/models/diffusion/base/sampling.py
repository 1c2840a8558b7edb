"""Samplers by the names that users give, for every family of discrete diffusion."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from genlib import ports
from genlib.functional import samplers
from genlib.functional.samplers import Denoiser, Grid, OnStep
from genlib.random import SeededNoise

SAMPLERS = {"ddim": samplers.ddim, "ancestral": samplers.ancestral, "heun": samplers.heun, "dpm_solver_pp_2m": samplers.dpm_solver_pp_2m}
"""ddim (Euler's method), heun (two calls a step) and dpm_solver_pp_2m are functions of the first noise; ancestral adds some at every step."""
CONTINUOUS_STEPS = 1000
"""Most steps where a model's time is continuous: more change nothing that can be seen."""
_ADD_NOISE = ("ancestral",)
Sampler = Annotated[str, ports.choice("sampler", SAMPLERS)]


def sample(denoiser: Denoiser, noise: SeededNoise, grid: Grid, sampler: str = "ddim", on_step: OnStep | None = None) -> Tensor:
    """Samples of noise's shape, from pure noise through the grid."""
    return run_sampler(sampler, denoiser, noise(), grid, noise, on_step)


@torch.no_grad()
def run_sampler(sampler: str, denoiser: Denoiser, x: Tensor, grid: Grid, noise: SeededNoise, on_step: OnStep | None = None) -> Tensor:
    """x (B, ...) at the grid's first level -> (B, ...) at its last; `noise` is what a sampler adds on the way that does so.

    Without gradient, as a graph of all steps would fill the memory.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"there is no sampler {sampler!r}; use one of {', '.join(SAMPLERS)}")
    added = {"noise": noise} if sampler in _ADD_NOISE else {}
    return SAMPLERS[sampler](denoiser, x, grid, **added, on_step=on_step)
