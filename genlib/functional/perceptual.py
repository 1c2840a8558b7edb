"""Distances of images: as a network sees them (Zhang et al. 2018, arXiv:1801.03924), and the plain signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def unit_channels(features: Tensor, eps: float = 1e-10) -> Tensor:
    """Features (B, C, H, W) divided by their length at every place."""
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + eps)


def feature_distance(first: Sequence[Tensor], second: Sequence[Tensor], weights: Sequence[Tensor] = ()) -> Tensor:
    """Squared difference of unit features, mean over places, summed over channels and layers.

    first, second: a map (B, C_l, H_l, W_l) per layer; weights: (C_l,) per layer, by default all ones -> (B,).
    """
    total = first[0].new_zeros(len(first[0]))
    for layer, (a, b) in enumerate(zip(first, second, strict=True)):
        channels = (unit_channels(a) - unit_channels(b)).square().mean((2, 3))
        total = total + (channels * weights[layer] if weights else channels).sum(1)
    return total


def psnr_db(made: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images (B, C, H, W) in [0, 1], in decibels (B,), 100 at most."""
    return -10 * (made - image).square().flatten(1).mean(1).clamp(min=1e-10).log10()
