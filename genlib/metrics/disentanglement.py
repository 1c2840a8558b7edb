"""Whether each factor of the data has a number of the code for itself: the mutual information gap (Chen et al. 2018, arXiv:1802.04942)."""

from __future__ import annotations

import numpy as np

BINS = 20
"""Equal bins of each number of a code, as Locatello et al. 2019 (arXiv:1811.12359) take them."""


def binned(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Values (N,) as small integers (N,): each distinct value its own where they are few, else equal bins from the lowest to the highest."""
    distinct, number = np.unique(values, return_inverse=True)
    if len(distinct) <= bins:
        return number
    edges = np.linspace(values.min(), values.max(), bins + 1)[1:-1]
    return np.digitize(values, edges)


def entropy(*columns: np.ndarray) -> float:
    """Joint entropy, in nats, of small integers (N,) each."""
    _, counts = np.unique(np.stack(columns), axis=1, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information, in nats, of small integers (N,) each."""
    return entropy(a) + entropy(b) - entropy(a, b)


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray) -> float:
    """Mean over factors of how much more the best number of the code tells of it than the second best, as a share of its entropy: in [0, 1].

    codes (N, K) with K of at least 2, factors (N, F); a factor that never changes is left out.
    """
    numbers, gaps = [binned(column) for column in codes.T], []
    for factor in map(binned, factors.T):
        if uncertain := entropy(factor):
            told = sorted(mutual_information(number, factor) for number in numbers)
            gaps.append((told[-1] - told[-2]) / uncertain)
    return float(np.mean(gaps)) if gaps else 0.0
