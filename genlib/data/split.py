"""One split of a data set: its samples in the order of the run, cut into global micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from genlib.data.order.buckets import BucketOrder
from genlib.data.order.mixture import MixtureOrder
from genlib.data.order.sample_order import SampleOrder
from genlib.data.reading.batch_decoder import BatchRows
from genlib.data.reading.reader import SampleReader
from genlib.data.shards.shard_set import ShardSet


@dataclass(slots=True)
class Split:
    """One split: its samples, their order, and what reads them."""

    where: str
    """The text by which the user named it."""
    shards: ShardSet
    reader: SampleReader
    order: SampleOrder | MixtureOrder | BucketOrder | None
    """None: each sample once, in stored order."""
    encoded: SampleReader | None = None
    """Reads what frozen networks made of the samples, by the same numbers, where that is wanted in their place."""

    def samples(self, positions: np.ndarray, seed: int, size: int) -> np.ndarray:
        """Sample numbers at global positions (B,) of global micro-batches of `size` samples."""
        if isinstance(self.order, BucketOrder):
            return self.order(positions, seed, size)
        return positions if self.order is None else self.order(positions, seed)

    def rows(self, size: int, mine: slice, start: int, seed: int) -> Iterator[BatchRows]:
        """The rows `mine` of each global micro-batch.

        Where the order has blocks, the rows of a batch are dealt to ranks sorted by sample number, so that each rank reads few blocks.
        """
        total = len(self.shards) if self.order is None else None
        by_place = self.order is not None and self.order.block > 1
        numbers = np.arange(mine.start, mine.stop, dtype=np.int64)
        while total is None or start < total:
            count = size if total is None else min(size, total - start)
            # a short last batch is filled up: what ranks gather from each other needs as many rows of each
            rows = np.minimum(numbers, count - 1)
            bucket_size = self.order.size_of(start, size) if isinstance(self.order, BucketOrder) else None
            if by_place:
                positions = np.arange(start, start + count, dtype=np.int64)
                samples = self.samples(positions, seed, size)
                dealt = np.argsort(samples, kind="stable")[rows]
                yield BatchRows(positions[dealt], samples[dealt], numbers < count, bucket_size=bucket_size)
            else:
                yield BatchRows(start + rows, self.samples(start + rows, seed, size), numbers < count, bucket_size=bucket_size)
            start += size
