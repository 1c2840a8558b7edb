"""Equivariance of a whole generator: what it draws is moved with its input, StyleGAN3's waves or StyleGAN2's constant map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from genlib.metrics.equivariance import equivariance, shifted_map
from genlib.models.adversarial.stylegan.generator import Generator
from genlib.models.adversarial.stylegan.synthesis3 import Synthesis3


@torch.no_grad()
def generator_equivariance(generator: Generator, noise: Tensor, *labels: Tensor, batch: int = 16, seed: int = 0) -> dict[str, float]:
    """EQ-T and EQ-R in decibels (see `genlib.metrics.equivariance`) of images of noise (N, latent_dim), maybe with labels (N, classes).

    StyleGAN2's input, a map of 4 x 4, goes on periodically and cannot be turned; it has no `eq_r`.
    """
    parts = list(zip(*(values.split(batch) for values in (noise, *labels)), strict=True))
    synthesis, styles = generator.synthesis, {}

    def drawn(number: int, transform: Tensor) -> Tensor:
        if number not in styles:
            styles.clear()
            styles[number] = generator.same_style(generator.mapping(*parts[number]))
        if isinstance(synthesis, Synthesis3):
            return synthesis(styles[number], transform=transform)
        first = synthesis.blocks[0]
        moved = shifted_map(first.const, transform)
        return functional_call(synthesis, {f"b{first.side}.const": moved}, (styles[number], "const"))

    return equivariance(drawn, len(parts), seed=seed, turns=isinstance(synthesis, Synthesis3))
