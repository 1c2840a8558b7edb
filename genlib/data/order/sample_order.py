"""Which sample stands at a position: a pure function, so that a seek needs no replay and the number of workers never matters.

A block is a run of samples that lie together in storage. Blocks are permuted over the whole set, then samples inside windows
of `WINDOW` blocks: what is read stays local, what is seen is mixed. Both steps are one primitive, a keyed permutation of
0 ... n-1 without tables: an unbalanced Feistel network on the digits of x = l * b + r (Black & Rogaway 2002, "Ciphers with
arbitrary finite domains") whose few values outside the set walk on along their cycle until they are inside.

The mapping is frozen: a change of any constant is a new `ORDER_VERSION`, and checkpoints of the old one refuse to resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ORDER_VERSION = 1
WINDOW = 256
"""Blocks that are mixed with each other."""
BLOCK_BYTES = 2 << 20
"""What one block weighs in a large set: one efficient read from disk or object store."""
SMALL_SET_BYTES = 4 << 30
"""Up to here a set fits in memory or on a node's disk, and a block is one sample."""
_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014, doi:10.1145/2714064.2660195), elementwise on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _key(*parts: np.ndarray | int) -> np.ndarray:
    """One uint64 key from several numbers, arrays broadcast."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        word = np.asarray(part).astype(np.uint64) if isinstance(part, np.ndarray) else np.uint64(part & 0xFFFFFFFFFFFFFFFF)
        key = _mix((key ^ word) + _GOLDEN)
    return key


def _feistel(x: np.ndarray, rows: int, columns: int, key: np.ndarray) -> np.ndarray:
    """A bijection of 0 ... rows * columns - 1, both below 2**32; x and key uint64 of one shape."""
    half, modulus = [x // np.uint64(columns), x % np.uint64(columns)], (np.uint64(rows), np.uint64(columns))
    for i in range(_ROUNDS):
        side = i % 2
        draw = _mix(half[1 - side] * _GOLDEN + key + np.uint64(i)) >> np.uint64(32)
        total = half[side] + ((draw * modulus[side]) >> np.uint64(32))
        half[side] = np.where(total >= modulus[side], total - modulus[side], total)
    return half[0] * np.uint64(columns) + half[1]


def permute(x: np.ndarray, n: int, key: np.ndarray) -> np.ndarray:
    """Where each x goes in the permutation of 0 ... n-1 that its key names. x and key uint64 of one shape, n below 2**62."""
    rows = math.isqrt(n - 1) + 1 if n > 1 else 1
    columns = -(-n // rows)
    return _walk(lambda values, at: _feistel(values, rows, columns, key[at]), x, n)


def _walk(step, x: np.ndarray, n: int) -> np.ndarray:
    """Cycle walking: applies the bijection `step(values, indices)` until every value is below n."""
    out = step(x, slice(None))
    outside = np.flatnonzero(out >= np.uint64(n))
    while outside.size:
        out[outside] = step(out[outside], outside)
        outside = outside[out[outside] >= np.uint64(n)]
    return out


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a set of `num_samples`, in blocks of `block` samples (see `block_samples`)."""

    num_samples: int
    block: int = 1

    def __post_init__(self) -> None:
        assert self.num_samples > 0
        assert self.block == 1 or self.block * WINDOW <= self.num_samples, "a window must fit, or cycles get long"

    def __call__(self, position: np.ndarray, seed: int) -> np.ndarray:
        """Sample numbers at global positions. position (B,) int64 -> (B,) int64; position // num_samples is the epoch."""
        position = np.asarray(position, np.int64)
        epoch, place = position // self.num_samples, (position % self.num_samples).astype(np.uint64)
        key = np.broadcast_to(_key(seed, epoch), place.shape)
        if self.block == 1:
            return permute(place, self.num_samples, key).astype(np.int64)
        return _walk(lambda values, at: self._blockwise(values, key[at]), place, self.num_samples).astype(np.int64)

    def _blockwise(self, place: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Both permutations over the set filled up to whole windows; what falls into the filling walks on."""
        span = WINDOW * self.block
        windows = -(-self.num_samples // span)
        window, inside = place // np.uint64(span), place % np.uint64(span)
        inside = permute(inside, span, _key(key, window))
        slot, rest = window * np.uint64(WINDOW) + inside // np.uint64(self.block), inside % np.uint64(self.block)
        return permute(slot, windows * WINDOW, _mix(key + _GOLDEN)) * np.uint64(self.block) + rest


def block_samples(num_samples: int, total_bytes: int) -> int:
    """Samples a block: one for a small set, else as many as `BLOCK_BYTES` holds. A function of the set alone, never of where it lies."""
    if total_bytes <= SMALL_SET_BYTES:
        return 1
    return max(1, min(BLOCK_BYTES * num_samples // total_bytes, num_samples // WINDOW))


MIXTURE_PARTS = 1_000_000
"""Weights of a mixture are kept as integers that add up to this."""


class Mixture:
    """Several orders dealt into one, each with its share of any run of positions, to within log2 of their number, rounded up.

    Positions are dealt to two halves of the parts, each half's to its two halves, and so on: to the first where
    round(position * its share) rises, a Bresenham line. So a seek needs no replay, and a small part repeats within an epoch of another.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float]):
        assert len(orders) == len(weights)
        self.orders, self.starts = list(orders), np.cumsum([0, *(order.num_samples for order in orders)])
        self.parts = _whole_parts(weights)

    @property
    def block(self) -> int:
        """Samples of the largest block."""
        return max(order.block for order in self.orders)

    def deal(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Global positions (B,) -> which part each goes to (B,), and its position there (B,)."""
        return deal(position, self.parts)

    def __call__(self, position: np.ndarray, seed: int) -> np.ndarray:
        """Sample numbers at global positions (B,), counted through all parts."""
        part, place = self.deal(position)
        samples = np.empty_like(place)
        for number in np.unique(part).tolist():
            mine = part == number
            samples[mine] = self.orders[number](place[mine], seed + (number << 40)) + self.starts[number]
        return samples


def deal(position: np.ndarray, parts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Deals positions (B,) to parts in these shares, whose sum is below 2**31: which part each goes to (B,), and its place there (B,)."""
    part, place = np.zeros(len(position), np.int64), np.array(position, np.int64)
    _deal(parts, part, place, np.arange(len(place)), 0, len(parts))
    return part, place


def _deal(parts: Sequence[int], part: np.ndarray, place: np.ndarray, rows: np.ndarray, low: int, high: int) -> None:
    """Deals the rows among the parts low ... high - 1, in place."""
    part[rows] = low
    if high - low == 1 or not len(rows):
        return
    middle = (low + high) // 2
    share, of, here = sum(parts[low:middle]), sum(parts[low:high]), place[rows]
    before = _rounded(here, share, of)
    taken = _rounded(here + 1, share, of) > before
    place[rows] = np.where(taken, before, here - before)
    _deal(parts, part, place, rows[taken], low, middle)
    _deal(parts, part, place, rows[~taken], middle, high)


def _rounded(position: np.ndarray, share: int, of: int) -> np.ndarray:
    """round(position * share / of), halves up, without overflow."""
    whole, rest = position // of, position % of
    return whole * share + (2 * rest * share + of) // (2 * of)


def _whole_parts(weights: Sequence[float]) -> list[int]:
    """Weights as integers that add up to `MIXTURE_PARTS`, each at least 1: the largest remainders are rounded up."""
    exact = [weight * MIXTURE_PARTS / sum(weights) for weight in weights]
    parts = [max(1, math.floor(value)) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda number: parts[number] - exact[number])
    for number in by_remainder[: max(0, MIXTURE_PARTS - sum(parts))]:
        parts[number] += 1
    parts[parts.index(max(parts))] -= sum(parts) - MIXTURE_PARTS
    return parts
