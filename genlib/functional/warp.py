"""Affine maps of pictures whose gradient can be differentiated again, with mirrored edges: by whole pixels, or through an orthonormal wavelet.

A map `place` (B, 3, 3) takes a pixel (x, y, 1) of the new picture to its place in the old one, both in pixels from the picture's centre. The
result is linear in the picture, and so is its gradient in the gradient that comes in: a penalty on gradients goes through it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.functional.filters import SYMLET_6, mirrored


def moved_by_pixels(images: Tensor, place: Tensor) -> Tensor:
    """Flips, quarter turns and shifts by whole pixels, exactly: each new pixel is an old one. images (B, C, H, W)."""
    height, width = images.shape[2:]
    rows, columns = (_centred(size, images) for size in (height, width))
    x, y = _mapped(columns, rows, place)
    x = mirrored((x + (width - 1) / 2).round().long(), width)
    y = mirrored((y + (height - 1) / 2).round().long(), height)
    index = (y * width + x).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view(images.shape)


def resampled(images: Tensor, place: Tensor) -> Tensor:
    """Any affine map, without aliasing (Karras et al. 2020, arXiv:2006.06676, appendix B.2). images (B, C, H, W).

    The picture is upsampled by 2 with a symlet, sampled between its pixels at twice the new picture's rate, and downsampled by the same symlet:
    the identity gives the picture back.
    """
    height, width = images.shape[2:]
    columns, rows = ((_wanted(size, images) - (size - 1) / 2) for size in (width, height))
    x, y = _mapped(columns, rows, place)
    fine = _finer(height, images) @ images @ _finer(width, images).mT
    ends = ((x + (width - 1) / 2, width, fine.shape[3]), (y + (height - 1) / 2, height, fine.shape[2]))
    grid = torch.stack([(2 * (_inside(at, size) + MARGIN) + DELAY) * (2 / (length - 1)) - 1 for at, size, length in ends], -1)
    sampled: Tensor = _Bilinear.apply(fine, grid.to(fine.dtype))  # type: ignore[assignment]
    return _coarser(height, images) @ sampled @ _coarser(width, images).mT


TAPS = len(SYMLET_6)
DELAY = sum(k * tap for k, tap in enumerate(SYMLET_6)) / sum(SYMLET_6)
"""The symlet is not quite symmetric: this is the centre of what it makes of a pixel."""
MARGIN = TAPS // 2
"""Pixels beyond the edges that are upsampled too: at least what the symlet wants of the new picture's surroundings."""


def _wanted(size: int, like: Tensor) -> Tensor:
    """Where, in pixels, the samples lie that `_coarser` makes `size` pixels of."""
    return (torch.arange(2 * size + TAPS - 2, device=like.device) - DELAY) / 2


def _inside(position: Tensor, size: int) -> Tensor:
    """Positions beyond the margin, mirrored."""
    return torch.where((position >= -MARGIN) & (position <= size - 1 + MARGIN), position, mirrored(position, size))


def _finer(size: int, like: Tensor) -> Tensor:
    """Upsampling of an axis by 2, with a mirrored margin, as a matrix: no slower than a convolution where the axis is short."""
    made = torch.arange(2 * (size - 1 + 2 * MARGIN) + TAPS, device=like.device)
    twice = made[:, None] - torch.arange(TAPS, device=like.device) - 2 * MARGIN
    taps = torch.where(twice % 2 == 0, torch.tensor(SYMLET_6).to(like), 0.0)
    return torch.zeros(len(made), size, device=like.device, dtype=like.dtype).scatter_add(
        1, mirrored(twice.div(2, rounding_mode="floor"), size), taps
    )


def _coarser(size: int, like: Tensor) -> Tensor:
    """Downsampling of an axis by 2 to so many samples, as a matrix."""
    index = 2 * torch.arange(size, device=like.device)[:, None] + torch.arange(TAPS, device=like.device)
    taps = torch.tensor(SYMLET_6).to(like).expand(size, -1)
    return torch.zeros(size, 2 * size + TAPS - 2, device=like.device, dtype=like.dtype).scatter(1, index, taps)


def _centred(size: int, images: Tensor) -> Tensor:
    return torch.arange(size, device=images.device) - (size - 1) / 2


def _mapped(columns: Tensor, rows: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Where a map takes the points of a grid, columns (W,) and rows (H,): x and y, (B, H, W) each."""
    across, down, start = (place[:, :2, None, None, k] for k in range(3))
    return (across * columns + down * rows[:, None] + start).unbind(1)  # type: ignore[return-value]


class _Bilinear(torch.autograd.Function):
    """`grid_sample`, aligned to corners, with respect to the picture alone: PyTorch's own has no second derivative."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, align_corners=True)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _Spread.apply(slopes[0], *ctx.saved_tensors, ctx.shape), None  # type: ignore[return-value]


class _Spread(torch.autograd.Function):
    """The transpose of `_Bilinear`."""

    @staticmethod
    def forward(ctx: Any, slopes: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        images = slopes.new_zeros(shape)
        return torch.ops.aten.grid_sampler_2d_backward(slopes, images, grid, 0, 0, True, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _Bilinear.apply(slopes[0], *ctx.saved_tensors), None, None  # type: ignore[return-value]
