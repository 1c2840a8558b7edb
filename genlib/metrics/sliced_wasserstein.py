"""Sliced Wasserstein distance of two sets (Rabin et al. 2011, doi:10.1007/978-3-642-24785-9_37), and of pictures by their patches.

On a line the best transport pairs values in order; the sliced distance is its mean cost over random lines. Of pictures it is taken over small
patches at every scale of a Laplacian pyramid (Karras et al. 2018, arXiv:1710.10196, section 5): fine scales see sharpness, coarse ones layout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 7
"""Pixels a side of a patch, as in the paper."""
_CHUNK = 2**24


def directions(dimensions: int, count: int, seed: int) -> Tensor:
    """Random lines through the origin: unit vectors (D, count) float32, on the CPU, a function of the seed."""
    drawn = torch.randn(dimensions, count, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=0)


def sliced_wasserstein(real: Tensor, fake: Tensor, *, lines: int = 128, seed: int = 0) -> Tensor:
    """Mean absolute cost over random lines of moving one set onto the other, a scalar, in the samples' own unit. real (N, D), fake (M, D)."""
    axes = directions(real.shape[1], lines, seed).to(real.device)
    chunk = max(1, _CHUNK // (len(real) + len(fake)))
    costs = [_on_lines(real.float() @ part, fake.float() @ part) for part in axes.split(chunk, dim=1)]
    return torch.cat(costs).mean()


def _on_lines(real: Tensor, fake: Tensor) -> Tensor:
    """Earth mover's distance on each line, (N, L) and (M, L) -> (L,): the area between both quantile functions."""
    real, fake = real.sort(0).values, fake.sort(0).values
    n, m = len(real), len(fake)
    if n == m:
        return (real - fake).abs().mean(0)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()  # where either function jumps, in steps of 1 / (n m)
    starts = F.pad(ends, (1, 0))[:-1]
    shares = ((ends - starts).double() / (n * m)).float().to(real.device)
    a, b = ((starts // step).to(real.device) for step in (m, n))
    return ((real[a] - fake[b]).abs() * shares[:, None]).sum(0)


def patch_distance(real: Tensor, fake: Tensor, *, patches: int = 16, lines: int = 128, seed: int = 0) -> Tensor:
    """Mean over the scales of the sliced distance of normalised patches, a scalar. real (N, C, H, W) and fake (M, C, H, W), of any range.

    `patches` random ones of each picture and scale. ValueError where pictures are smaller than a patch.
    """
    if min(real.shape[-2:]) < PATCH:
        raise ValueError(f"pictures of {real.shape[-1]} x {real.shape[-2]} pixels hold no patch of {PATCH}; compare larger ones")
    found = []
    for level, scale in enumerate(zip(pyramid(real), pyramid(fake), strict=True)):
        found.append(sliced_wasserstein(*(_normalised(drawn_patches(images, patches, seed + level)) for images in scale), lines=lines, seed=seed))
    return torch.stack(found).mean()


def pyramid(images: Tensor) -> list[Tensor]:
    """Laplacian pyramid (Burt & Adelson 1983) of (B, C, H, W): what each halving loses, the finest first, then what is left.

    Halved as long as a patch fits: the paper stops at 16 pixels, where small pictures would have one scale alone.
    """
    levels, here = [], images.float()
    while min(here.shape[-2:]) >= 2 * PATCH:
        small = F.avg_pool2d(here, 2)
        levels.append(here - F.interpolate(small, here.shape[-2:], mode="bilinear", align_corners=False))
        here = small
    return [*levels, here]


def drawn_patches(images: Tensor, count: int, seed: int) -> Tensor:
    """Patches at `count` random places of each of (B, C, H, W): (B * count, C, PATCH, PATCH); a picture's places follow from its row and the seed."""
    batch, _, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(batch, 2, count, generator=generator) * torch.tensor([height - PATCH + 1, width - PATCH + 1])[:, None]
    rows, columns = (places.long()[:, axis, :, None] + torch.arange(PATCH) for axis in (0, 1))  # (B, count, PATCH)
    index = torch.arange(batch)[:, None, None, None]
    taken = images.movedim(1, -1)[index, rows[..., :, None], columns[..., None, :]]  # (B, count, PATCH, PATCH, C)
    return taken.flatten(0, 1).movedim(-1, 1)


def _normalised(patches: Tensor) -> Tensor:
    """(N, C, P, P) -> (N, C P P), each channel with mean 0 and deviation 1 over the set, as in the paper."""
    patches = patches.float()
    spread = patches.std((0, 2, 3), keepdim=True, unbiased=False).clamp(min=1e-6)
    return ((patches - patches.mean((0, 2, 3), keepdim=True)) / spread).flatten(1)
