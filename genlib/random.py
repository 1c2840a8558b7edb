"""Randomness keyed by sample position: the same noise for a sample whatever rank, micro-batch or world size draws it.

A counter-based generator: the finaliser of SplitMix64 (Steele, Lea & Flood 2014, doi:10.1145/2714064.2660195) over
(seed, stream, position, element). Integer arithmetic only until the last step, so uniforms are equal bit for bit on CPU and GPU.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64, the odd constant of SplitMix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_WORD = 0xFFFFFFFFFFFFFFFF


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser; x is overwritten, as memory is what this waits for."""
    x.bitwise_xor_(_shift(x, 30)).mul_(_MIX_1)
    x.bitwise_xor_(_shift(x, 27)).mul_(_MIX_2)
    return x.bitwise_xor_(_shift(x, 31))


def _key(seed: int, stream: str) -> int:
    """The same finaliser of one number, as int64: it costs no kernels."""
    x = seed * 1_000_003 + zlib.crc32(stream.encode()) & _WORD
    x = (x ^ x >> 30) * _MIX_1 & _WORD
    x = (x ^ x >> 27) * _MIX_2 & _WORD
    x ^= x >> 31
    return x - (x >> 63 << 64)


def bits(position: Tensor, shape: tuple[int, ...], *, seed: int, stream: str) -> Tensor:
    """64 random bits an element. position (B,) int64 -> (B, *shape) int64; `stream` names the use, so that two uses never share bits."""
    row = _mix((position * _GOLDEN).bitwise_xor_(_key(seed, stream)))
    element = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=position.device).mul_(_GOLDEN)
    return _mix(row[:, None] + element).view(-1, *shape)


def uniform(position: Tensor, shape: tuple[int, ...] = (), *, seed: int, stream: str) -> Tensor:
    """Uniform in [0, 1) on a grid of 2**-24. position (B,) int64 -> (B, *shape) float32."""
    return _shift(bits(position, shape, seed=seed, stream=stream), 40).float() * 2.0**-24


def normal(position: Tensor, shape: tuple[int, ...] = (), *, seed: int, stream: str) -> Tensor:
    """Standard normal by Box and Muller (1958), both halves of the 64 bits used. position (B,) int64 -> (B, *shape) float32."""
    word = bits(position, shape, seed=seed, stream=stream)
    radius = (-2 * torch.log((_shift(word, 40).float() + 0.5) * 2.0**-24)).sqrt()
    return radius * torch.cos((word & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24))


def randint(position: Tensor, high: int, shape: tuple[int, ...] = (), *, seed: int, stream: str) -> Tensor:
    """Integers 0 to high - 1. position (B,) int64 -> (B, *shape) int64; bias below high * 2**-40."""
    return (_shift(bits(position, shape, seed=seed, stream=stream), 24).double() * 2.0**-40 * high).long()
