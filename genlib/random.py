"""Randomness keyed by sample position: the same noise for a sample whatever rank, micro-batch or world size draws it.

A counter-based generator: the finaliser of SplitMix64 (`genlib.splitmix`) over (seed, stream, position, element). Integer arithmetic
only until the last step, so uniforms are equal bit for bit on CPU and GPU.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from genlib.splitmix import GOLDEN, WORD, mix, mix_number, shift_right, signed


def _key(seed: int, stream: str) -> int:
    """The key of a stream, as int64."""
    return signed(mix_number(seed * 1_000_003 + zlib.crc32(stream.encode()) & WORD))


def bits(position: Tensor, shape: tuple[int, ...], *, seed: int, stream: str) -> Tensor:
    """64 random bits an element. position (B,) int64 -> (B, *shape) int64; `stream` names the use, so that two uses never share bits."""
    row = mix((position * signed(GOLDEN)).bitwise_xor_(_key(seed, stream)))
    element = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=position.device).mul_(signed(GOLDEN))
    return mix(row[:, None] + element).view(-1, *shape)


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
