"""Partners of samples: another of the same label, one of another label, or one of a second set without any pairing.

Every sample is an anchor once an epoch, and its partner is a function of (seed, position): the world size does not matter here either.
"""

from __future__ import annotations

import numpy as np
import torch

from genlib import random
from genlib.data.order.sample_order import SampleOrder, block_samples
from genlib.data.shards.shard_set import ShardSet

ROLES = ("positive", "negative", "other")
"""positive: another sample of the anchor's label. negative: one of another label. other: one of the set `data.other`."""


class LabelIndex:
    """Samples by label, three int64 a sample."""

    def __init__(self, shards: ShardSet):
        labels = np.concatenate([shards.numbers(number, "label") for number in range(len(shards.paths))])
        if np.isnan(labels).any():
            raise ValueError(f"{int(np.isnan(labels).sum())} of {len(labels)} samples have no label, but pairs are made by it; add .cls members")
        values, self._label = np.unique(labels, return_inverse=True)
        if len(values) < 2:
            raise ValueError("all samples have one label, but pairs are made of equal and of unequal ones; give labels of at least two classes")
        self._by_label = np.argsort(self._label, kind="stable")
        self._starts = np.searchsorted(self._label[self._by_label], np.arange(len(values) + 1))
        self._rank = np.empty(len(labels), np.int64)
        self._rank[self._by_label] = np.arange(len(labels))

    def positive(self, samples: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """Another sample of each one's label, itself where it is the only one. draw (B,) uniform in [0, 1)."""
        low, high = (self._starts[self._label[samples] + step] for step in (0, 1))
        at = low + (draw * (high - low - 1)).astype(np.int64)
        return self._by_label[at + ((at >= self._rank[samples]) & (high - low > 1))]  # steps over the sample itself

    def negative(self, samples: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """A sample of another label than each one's, all equally often."""
        low, high = (self._starts[self._label[samples] + step] for step in (0, 1))
        at = (draw * (len(self._label) - (high - low))).astype(np.int64)
        return self._by_label[np.where(at >= low, at + high - low, at)]  # steps over the samples of the label


class PartnerSampler:
    """Chooses partners for the samples of one split."""

    def __init__(self, shards: ShardSet, other: ShardSet | None):
        self._shards, self._labels = shards, None
        self._order = SampleOrder(len(other), block_samples(len(other), other.num_bytes)) if other else None

    def samples(self, role: str, positions: np.ndarray, samples: np.ndarray, seed: int) -> np.ndarray:
        """Sample numbers (B,) of the partners, for "other" in the other set. ValueError where the data cannot give them."""
        assert role in ROLES
        if role == "other":
            if self._order is None:
                raise ValueError("this task sees a second set beside the first; name it with --data.other")
            return self._order(positions, seed)
        if self._labels is None:
            self._labels = LabelIndex(self._shards)
        draw = random.uniform(torch.from_numpy(positions), seed=seed, stream=f"partner {role}").numpy().astype(np.float64)
        return getattr(self._labels, role)(samples, draw)
