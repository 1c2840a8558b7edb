"""What networks of many resolutions have in common: their sizes, from 4 pixels on doubled, their channels, and low precision for the largest."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch

SMALLEST = 4
"""Pixels a side of the first resolution."""
CLAMP = 256.0
"""Largest size of an activation in low precision, as in StyleGAN's published code."""


def sides(image_size: int) -> list[int]:
    """Pixels a side of each resolution, 4 to image_size. ValueError where that is no power of two of at least 8."""
    count = round(math.log2(image_size)) if image_size > 0 else 0
    if count < 3 or 2**count != image_size:
        below = 2 ** max(3, int(math.log2(max(image_size, 8))))
        raise ValueError(
            f"image_size {image_size} is no power of two from 8 on, as StyleGAN and ProGAN need; use {below} or {2 * below} with --data.image-size, "
            "to which images are scaled"
        )
    return [2**power for power in range(2, count + 1)]


def channels_of(side: int, base: int, most: int) -> int:
    """Channels of a resolution: `base` over its side, at most `most`."""
    return max(1, min(base // side, most))


def precision(device: str, *, low: bool) -> AbstractContextManager:
    """bf16 inside if it is `low`; else as outside."""
    return torch.autocast(device, torch.bfloat16) if low else nullcontext()
