"""Inpainting and outpainting with a model that never learnt to: masked resampling (Lugmayr et al. 2022, "RePaint", arXiv:2201.09865).

At every noise level the known pixels are replaced by the picture noised to that level. Going back up and down the levels a few times
lets the unknown ones settle to what is around them.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.functional import step_callbacks
from genlib.functional.grids import Grid
from genlib.functional.samplers import Denoiser, Noise, OnStep, ancestral


def inpaint(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    *,
    image: Tensor,
    keep: Tensor,
    noise: Noise,
    jump: int = 10,
    passes: int = 10,
    on_step: OnStep | None = None,
) -> Tensor:
    """Fills what `keep` does not name. x (B, C, H, W) noise at the grid's first level, image likewise, keep (B or 1, C or 1, H, W) bool.

    Each stretch of `jump` steps is walked `passes` times (the paper's j and r; passes 1 only blends). noise(call) is asked with a running
    number, up to three times a step; `on_step` sees x before known pixels are put back.
    -> (B, C, H, W) that equals `image`, bit for bit, where `keep` is true.
    """
    _check(image, keep, x)
    draws = (noise(call) for call in itertools.count())
    alpha, sigma = grid.levels()
    points = visit_order(len(grid), jump, passes)
    forward, done = sum(there > here for here, there in itertools.pairwise(points)), itertools.count()
    for here, there in itertools.pairwise(points):
        if there > here:
            step = grid.part(here, there)
            with step_callbacks.part(next(done), forward):
                x = ancestral(denoiser, x, step, noise=lambda _: next(draws), on_step=on_step)
            x = torch.where(keep, alpha[there] * image + sigma[there] * next(draws), x)
        else:
            ratio = alpha[there] / alpha[here]
            added = math.sqrt(max(sigma[there] ** 2 - (ratio * sigma[here]) ** 2, 0.0))
            x = ratio * x + added * next(draws)
    return torch.where(keep, image, x)


def visit_order(steps: int, jump: int, passes: int) -> list[int]:
    """Points of a grid in the order masked resampling visits them: 0 to `steps`, one at a time, with jumps back of `jump` points.

    Jumps start `jump` apart, counted from the last point that still has noise, `passes` - 1 of them at each place.
    """
    if jump < 1 or passes < 1:
        raise ValueError(f"resampling goes back jump {jump} steps, passes {passes} times over each; use 1 or more for both (1 pass never goes back)")
    left = {steps - 1 - noisy: passes - 1 for noisy in range(0, steps - jump, jump)}
    points = [0]
    while points[-1] < steps:
        points.append(points[-1] + 1)
        if left.get(points[-1], 0) > 0:
            left[points[-1]] -= 1
            points.append(points[-1] - jump)
    return points


def extend(image: Tensor, left: int, top: int, right: int, bottom: int) -> tuple[Tensor, Tensor]:
    """Outpainting as inpainting: a canvas of zeros around the picture, and which of its pixels to keep.

    image (B, C, H, W) -> canvas (B, C, top + H + bottom, left + W + right) and keep (1, 1, ..., ...) bool.
    """
    if min(left, top, right, bottom) < 0:
        raise ValueError(f"outpainting adds {left}, {top}, {right} and {bottom} pixels at the left, top, right and bottom; use 0 or more for each")
    margins = (left, right, top, bottom)
    keep = torch.ones(1, 1, *image.shape[-2:], dtype=torch.bool, device=image.device)
    return F.pad(image, margins), F.pad(keep, margins)


def _check(image: Tensor, keep: Tensor, x: Tensor) -> None:
    if image.shape != x.shape:
        raise ValueError(f"the picture to fill is {tuple(image.shape)} and the noise {tuple(x.shape)}; give noise of the picture's shape")
    if keep.dtype != torch.bool:
        raise ValueError(f"the mask is {keep.dtype}; give booleans, true for pixels to keep, such as mask > 0.5")
    try:
        fits = torch.broadcast_shapes(keep.shape, image.shape) == image.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"the mask is {tuple(keep.shape)} and the picture {tuple(image.shape)}; give (B or 1, C or 1, H, W) like the picture's")
