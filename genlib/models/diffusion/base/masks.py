"""Random masks of what a picture misses, keyed by position, for models that learn to fill it."""

from __future__ import annotations

import torch
from torch import Tensor

from genlib import random

_HOLES = 3  # rectangles at most
_OUTSIDE = 0.25  # share of masks that hide all but a rectangle: what outpainting asks for
_ALL = 0.05  # share of masks that hide everything, so that the model also draws from nothing


def random_masks(position: Tensor, height: int, width: int, *, seed: int) -> Tensor:
    """Masks (B, 1, H, W) float32 for positions (B,), 1 where the picture is to be filled.

    Seven tenths hide one to three rectangles with sides of a quarter to a half of the picture's, a quarter all but one with sides of
    four to nine tenths, the rest everything.
    """
    draw = random.uniform(position, (2 + 4 * _HOLES,), seed=seed, stream="mask")
    outside, everything = draw[:, 0] < _OUTSIDE, draw[:, 0] >= 1 - _ALL
    count = 1 + (draw[:, 1] * _HOLES).long()
    mask = torch.zeros(len(position), 1, height, width, device=position.device)
    for number in range(_HOLES):
        place = draw[:, 2 + 4 * number : 6 + 4 * number]
        hole = rectangle(place, height, width, 0.25, 0.5)
        mask = torch.where((number < count)[:, None, None, None], torch.maximum(mask, hole), mask)
    mask = torch.where(outside[:, None, None, None], 1 - rectangle(draw[:, 2:6], height, width, 0.4, 0.9), mask)
    return torch.where(everything[:, None, None, None], 1.0, mask)


def rectangle(draw: Tensor, height: int, width: int, smallest: float, largest: float) -> Tensor:
    """Rectangles (B, 1, H, W) of ones, of sides between two shares of the picture's, from uniforms (B, 4): sides, then place."""
    sides = []
    for axis, length in enumerate((height, width)):
        side = (length * (smallest + (largest - smallest) * draw[:, axis])).round().clamp(1, length)
        first = (draw[:, 2 + axis] * (length - side + 1)).floor()
        at = torch.arange(length, device=draw.device)
        sides.append((at >= first[:, None]) & (at < (first + side)[:, None]))
    return (sides[0][:, None, :, None] & sides[1][:, None, None, :]).float()
