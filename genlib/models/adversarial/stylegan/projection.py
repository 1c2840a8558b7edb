"""The style that draws a given picture (Karras et al. 2020, arXiv:1912.04958, section 5): by descent, from the nearest of some styles.

The published method measures in VGG's features; this one in pixels at several scales, for which no other network is needed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.models.adversarial.stylegan.generator import Generator
from genlib.random import seeded_normal

CANDIDATES, RATE, RISE, FALL = 64, 0.1, 0.05, 0.25
"""Styles that are tried first; Adam's step; shares of the descent in which it rises and falls (appendix D)."""


def distance(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference (B,) of images (B, C, S, S), and of both at each half of their size down to 4 pixels, one as much as the other."""
    found = []
    while True:
        found.append((image - target).square().flatten(1).mean(1))
        if image.shape[-1] <= 4:
            return torch.stack(found).mean(0)
        image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)


@torch.no_grad()
def nearest_styles(generator: Generator, target: Tensor, *labels: Tensor) -> Tensor:
    """Of some styles of the mapping network, and their mean, the one (B, style_dim) whose image is nearest to each target (B, C, S, S)."""
    mapping = generator.mapping
    noise = seeded_normal(range(CANDIDATES), (mapping.noise_dim,), target.device)
    best, least = mapping.w_avg.expand(len(target), -1), torch.full((len(target),), math.inf, device=target.device)
    if not mapping.w_avg.any():
        best = mapping(noise[:1].expand(len(target), -1), *labels)
    for one in noise:
        w = mapping(one.expand(len(target), -1), *labels)
        far = distance(generator.drawn(generator.same_style(w), "const"), target)
        nearer = far < least
        best, least = torch.where(nearer[:, None], w, best), torch.where(nearer, far, least)
    return best


def projected(generator: Generator, target: Tensor, steps: int, *labels: Tensor) -> Tensor:
    """Styles (B, style_dim) whose images come near to the targets (B, C, S, S) in [-1, 1]; each row is a search of its own."""
    w = nearest_styles(generator, target, *labels).clone()
    best, least = w.clone(), torch.full((len(w),), math.inf, device=w.device)
    with torch.enable_grad():
        w.requires_grad_()
        optimizer = torch.optim.Adam([w], RATE)
        for index in range(steps + 1):
            far = distance(generator.drawn(generator.same_style(w), "const"), target)
            nearer = far < least
            best, least = torch.where(nearer[:, None], w.detach(), best), torch.where(nearer, far.detach(), least)
            if index == steps:
                return best
            share = index / steps
            ramp = min(1.0, (1 - share) / FALL)
            optimizer.param_groups[0]["lr"] = RATE * (0.5 - 0.5 * math.cos(ramp * math.pi)) * min(1.0, (share + 1 / steps) / RISE)
            (w.grad,) = torch.autograd.grad(far.sum(), w)
            optimizer.step()
    return best
