"""The sample at a position, as a pure function: a seek needs no replay, and the number of workers does not matter.

A block is a run of samples that lie together in storage. Blocks are permuted over the whole set, then samples inside windows
of `WINDOW` blocks: what is read stays local, what is seen is mixed. Both steps are one primitive, a keyed permutation of
0 ... n-1 without tables: an unbalanced Feistel network on the digits of x = l * b + r (Black & Rogaway 2002, "Ciphers with
arbitrary finite domains") whose few values outside the set walk on along their cycle until they are inside.

The mapping is frozen: a change of any constant is a new `ORDER_VERSION`, and checkpoints of the old one refuse to resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from genlib.splitmix import GOLDEN, WORD, mix_array

ORDER_VERSION = 1
WINDOW = 256
"""Blocks that are mixed with each other."""
BLOCK_BYTES = 2 << 20
"""Size of a block of a large set: one efficient read from disk or object store."""
SMALL_SET_BYTES = 4 << 30
"""Largest set whose blocks are single samples, as it fits in memory or on a node's disk."""
_ROUNDS = 6  # of the Feistel network; frozen with the mapping
_GOLDEN = np.uint64(GOLDEN)


def _key(*parts: np.ndarray | int) -> np.ndarray:
    """One uint64 key from several numbers, arrays broadcast."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        word = np.asarray(part).astype(np.uint64) if isinstance(part, np.ndarray) else np.uint64(part & WORD)
        key = mix_array((key ^ word) + _GOLDEN)
    return key


def _feistel(x: np.ndarray, rows: int, columns: int, key: np.ndarray) -> np.ndarray:
    """A bijection of 0 ... rows * columns - 1, both below 2**32; x and key uint64 of one shape."""
    # rows and columns differ where n is no square, so the halves have a modulus each, and addition takes the place of XOR
    half, modulus = [x // np.uint64(columns), x % np.uint64(columns)], (np.uint64(rows), np.uint64(columns))
    for i in range(_ROUNDS):
        side = i % 2
        draw = mix_array(half[1 - side] * _GOLDEN + key + np.uint64(i)) >> np.uint64(32)
        # multiply and shift: 32 random bits to 0 ... modulus - 1, cheaper and less biased than a remainder
        total = half[side] + ((draw * modulus[side]) >> np.uint64(32))
        half[side] = np.where(total >= modulus[side], total - modulus[side], total)
    return half[0] * np.uint64(columns) + half[1]


def permute(x: np.ndarray, n: int, key: np.ndarray) -> np.ndarray:
    """The image of each x under the permutation of 0 ... n-1 that its key names. x and key uint64 of one shape, n below 2**62."""
    rows = math.isqrt(n - 1) + 1 if n > 1 else 1
    columns = -(-n // rows)
    return _walk(lambda values, at: _feistel(values, rows, columns, key[at]), x, n)


def _walk(step: Callable[..., np.ndarray], x: np.ndarray, n: int) -> np.ndarray:
    """Cycle walking: applies the bijection `step(values, indices)` until every value is below n."""
    out = step(x, slice(None))
    outside = np.flatnonzero(out >= np.uint64(n))
    while outside.size:
        out[outside] = step(out[outside], outside)
        outside = outside[out[outside] >= np.uint64(n)]
    return out


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """The order of a set of `num_samples`, in blocks of `block` samples (see `block_samples`)."""

    num_samples: int
    block: int = 1

    def __post_init__(self) -> None:
        assert self.num_samples > 0
        assert self.block == 1 or self.block * WINDOW <= self.num_samples, "a window must fit, or cycles get long"

    def __call__(self, position: np.ndarray, seed: int) -> np.ndarray:
        """Sample numbers at global positions. position (B,) int64 -> (B,) int64; position // num_samples is the epoch."""
        position = np.asarray(position, np.int64)
        epoch, number = position // self.num_samples, (position % self.num_samples).astype(np.uint64)
        key = np.broadcast_to(_key(seed, epoch), number.shape)
        if self.block == 1:
            return permute(number, self.num_samples, key).astype(np.int64)
        return _walk(lambda values, at: self._blockwise(values, key[at]), number, self.num_samples).astype(np.int64)

    def _blockwise(self, number: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Both permutations over the set filled up to whole windows; what falls into the filling walks on."""
        span = WINDOW * self.block
        windows = -(-self.num_samples // span)
        window, inside = number // np.uint64(span), number % np.uint64(span)
        inside = permute(inside, span, _key(key, window))
        block, rest = window * np.uint64(WINDOW) + inside // np.uint64(self.block), inside % np.uint64(self.block)
        return permute(block, windows * WINDOW, mix_array(key + _GOLDEN)) * np.uint64(self.block) + rest


def block_samples(num_samples: int, total_bytes: int) -> int:
    """Samples a block: one for a small set, else as many as `BLOCK_BYTES` holds. A function of the set alone, not of its storage."""
    if total_bytes <= SMALL_SET_BYTES:
        return 1
    return max(1, min(BLOCK_BYTES * num_samples // total_bytes, num_samples // WINDOW))
