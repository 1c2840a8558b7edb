"""Differentiable augmentation of data and fakes in both players' turns (Zhao et al. 2020, arXiv:2006.10738): colour, translation and cutout.

Unlike `adaptive_augment` every picture is changed. Draws are keyed by position, and a gradient can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genlib import random

SHIFT, CUTOUT = 1 / 8, 1 / 2
"""Largest shift and side of the square cut out, as shares of the side (section 4)."""

Uniform = Callable[..., Tensor]
"""A use and a shape to numbers in [0, 1), (B, *shape)."""


def diff_augmented(images: Tensor, position: Tensor, changes: Sequence[str], *, seed: int, stream: str) -> Tensor:
    """Pictures (B, C, H, W) around 0, changed in that order by what their positions (B,) and the stream draw.

    `changes` are of "color", "translation" and "cutout"; ValueError for another.
    """
    unknown = [change for change in changes if change not in CHANGES]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no change of DiffAugment; there are {', '.join(CHANGES)}")

    def uniform(use: str, *shape: int) -> Tensor:
        return random.uniform(position, shape, seed=seed, stream=f"{stream}: {use}")

    for change in changes:
        images = CHANGES[change](images, uniform)
    return images


def color(images: Tensor, uniform: Uniform) -> Tensor:
    """Brightness shifted by up to 1/2, then saturation scaled by up to 2, then contrast by 1/2 to 3/2."""
    brightness, saturation, contrast = uniform("color", 3)[:, :, None, None, None].unbind(1)
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def translation(images: Tensor, uniform: Uniform) -> Tensor:
    """Shifted by whole pixels, up to an eighth of each side; what comes in is grey (0)."""
    inside, index = [], []
    for axis, draw in ((2, 0), (3, 1)):
        size = images.shape[axis]
        most = int(size * SHIFT + 0.5)
        shift = (uniform("translation", 2)[:, draw] * (2 * most + 1)).long() - most
        source = torch.arange(size, device=images.device) - shift[:, None]
        inside.append((source >= 0) & (source < size))
        index.append(source.clamp(0, size - 1))
    flat = (index[0][:, :, None] * images.shape[3] + index[1][:, None, :]).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    moved = images.flatten(2).gather(2, flat).view(images.shape)
    return torch.where((inside[0][:, :, None] & inside[1][:, None, :])[:, None], moved, 0.0)


def cutout(images: Tensor, uniform: Uniform) -> Tensor:
    """Grey (0) in a square of half the side around any pixel, cut at the edges."""
    hidden = []
    for axis, draw in ((2, 0), (3, 1)):
        size = images.shape[axis]
        side = int(size * CUTOUT + 0.5)
        start = (uniform("cutout", 2)[:, draw] * (size + 1 - side % 2)).long() - side // 2
        place = torch.arange(size, device=images.device) - start[:, None]
        hidden.append((place >= 0) & (place < side))
    return torch.where((hidden[0][:, :, None] & hidden[1][:, None, :])[:, None], 0.0, images)


CHANGES: dict[str, Callable[[Tensor, Uniform], Tensor]] = {"color": color, "translation": translation, "cutout": cutout}
