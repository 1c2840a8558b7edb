"""Several orders dealt into one in fixed shares, as a pure function of the position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from genlib.data.order.sample_order import SampleOrder

MIXTURE_PARTS = 1_000_000
"""Sum of a mixture's weights as integers."""


class MixtureOrder:
    """Several orders dealt into one, each with its share of any run of positions, to within log2 of their number, rounded up.

    Positions are dealt to two halves of the parts, each half's to its two halves, and so on: to the first where
    round(position * its share) rises, a Bresenham line. So a seek needs no replay, and a small part repeats within an epoch of another.
    """

    def __init__(self, orders: Sequence[SampleOrder], weights: Sequence[float]):
        assert len(orders) == len(weights)
        self.orders, self.starts = list(orders), np.cumsum([0, *(order.num_samples for order in orders)])
        self.parts = _whole_parts(weights)

    @property
    def block(self) -> int:
        """Samples of the largest block."""
        return max(order.block for order in self.orders)

    def deal(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Global positions (B,) -> which part each goes to (B,), and its position in that part's order (B,)."""
        return deal(position, self.parts)

    def __call__(self, position: np.ndarray, seed: int) -> np.ndarray:
        """Sample numbers at global positions (B,), counted through all parts."""
        part, within = self.deal(position)
        samples = np.empty_like(within)
        for number in np.unique(part).tolist():
            mine = part == number
            # a key of its own for each part: with one seed, two sets of one size would be shuffled alike
            samples[mine] = self.orders[number](within[mine], seed + (number << 40)) + self.starts[number]
        return samples


def deal(position: np.ndarray, parts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Deals positions (B,) to parts in these shares, whose sum is below 2**31: which part each goes to (B,), and its position in that part (B,)."""
    part, within = np.zeros(len(position), np.int64), np.array(position, np.int64)
    _deal(parts, part, within, np.arange(len(within)), 0, len(parts))
    return part, within


def _deal(parts: Sequence[int], part: np.ndarray, within: np.ndarray, rows: np.ndarray, low: int, high: int) -> None:
    """Deals the rows among the parts low ... high - 1, in within."""
    part[rows] = low
    if high - low == 1 or not len(rows):
        return
    middle = (low + high) // 2
    share, of, here = sum(parts[low:middle]), sum(parts[low:high]), within[rows]
    before = _rounded(here, share, of)
    taken = _rounded(here + 1, share, of) > before
    within[rows] = np.where(taken, before, here - before)
    _deal(parts, part, within, rows[taken], low, middle)
    _deal(parts, part, within, rows[~taken], middle, high)


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
