"""Randomness keyed by sample position, for training, and by seed, for what a request draws.

Keyed by position, noise of a sample is the same whatever rank, micro-batch or world size draws it. A counter-based generator: the
finaliser of SplitMix64 (`genlib.splitmix`) over (seed, stream, position, element). Integer arithmetic only until the last step, so uniforms
are equal bit for bit on CPU and GPU.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from genlib.splitmix import GOLDEN, WORD, mix, mix_number, shift_right, signed


def _key(seed: int, stream: str) -> int:
    """The key of a stream, as int64."""
    return signed(mix_number(seed * 1_000_003 + zlib.crc32(stream.encode()) & WORD))


# crc32 is a C function, which torch.compile cannot look into. This is all that torch.compiler.assume_constant_result does, but for
# importing the compiler: more than torch itself takes to import, in every process that reads or serves.
_key._dynamo_marked_constant = True  # type: ignore[attr-defined]


def bits(position: Tensor, shape: tuple[int, ...], *, seed: int, stream: str) -> Tensor:
    """64 random bits an element. position (B,) int64 -> (B, *shape) int64; `stream` names the use, so that two uses never share bits."""
    row = mix((position * signed(GOLDEN)).bitwise_xor_(_key(seed, stream)))
    element = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=position.device).mul_(signed(GOLDEN))
    return mix(row[:, None] + element).view(len(position), *shape)


def uniform(position: Tensor, shape: tuple[int, ...] = (), *, seed: int, stream: str) -> Tensor:
    """Uniform in [0, 1) on a grid of 2**-24. position (B,) int64 -> (B, *shape) float32."""
    return shift_right(bits(position, shape, seed=seed, stream=stream), 40).float() * 2.0**-24


def normal(position: Tensor, shape: tuple[int, ...] = (), *, seed: int, stream: str) -> Tensor:
    """Standard normal by Box and Muller (1958), both halves of the 64 bits used. position (B,) int64 -> (B, *shape) float32."""
    word = bits(position, shape, seed=seed, stream=stream)
    radius = (-2 * torch.log((shift_right(word, 40).float() + 0.5) * 2.0**-24)).sqrt()
    return radius * torch.cos((word & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24))


def randint(position: Tensor, high: int, shape: tuple[int, ...] = (), *, seed: int, stream: str) -> Tensor:
    """Integers 0 to high - 1. position (B,) int64 -> (B, *shape) int64; bias below high * 2**-40."""
    return (shift_right(bits(position, shape, seed=seed, stream=stream), 24).double() * 2.0**-40 * high).long()


class SeededNoise:
    """Standard normal noise of samples that each have a seed: one CPU generator a sample, as diffusers draws from a list of generators.

    The first call is what sampling starts from, the further ones what a stochastic sampler adds.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        wrong = next((seed for seed in seeds if not 0 <= seed < 2**63), None)
        if wrong is not None:
            raise ValueError(f"seed {wrong} is not between 0 and 2**63 - 1")
        if not seeds:
            raise ValueError("there is no seed, so there is nothing to draw; give one seed a sample")
        self.shape, self.device = tuple(shape), device
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, index: int = 0) -> Tensor:
        """The next noise (len(seeds), *shape). `index`, by which samplers say which step asks, changes nothing."""
        return torch.stack([torch.randn(self.shape, generator=generator, device="cpu") for generator in self.generators]).to(self.device)


def seeded_normal(seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """The first noise of `SeededNoise`, (len(seeds), *shape)."""
    return SeededNoise(seeds, shape, device)()
