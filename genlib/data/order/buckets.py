"""Aspect-ratio buckets: pictures of like shape share a batch and are cut to one size, so that little of each is lost.

Multi-aspect training as in SDXL (Podell et al. 2023, arXiv:2307.01952, section 2.3 and appendix I). Which bucket a batch is of, and
which samples it holds, is a function of (seed, position, batch size) alone: exactly once, resumable, the same for every world.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from genlib.data.order.mixture import deal
from genlib.data.order.sample_order import WINDOW, SampleOrder, block_samples
from genlib.data.shards.shard_set import MapShards, ShardSet

BucketSize = tuple[int, int]
"""Width and height in pixels."""
_PARTS_BITS = 30  # of their sum: what `deal` takes without overflow


def bucket_sizes(image_size: int, step: int, max_aspect: float) -> list[BucketSize]:
    """Sizes (width, height) in multiples of `step`, by rising width / height, of at most image_size**2 pixels and at most that aspect.

    For each width the largest height that fits, and for each height the largest width. With 1024, 64 and 4 these are 33 of SDXL's 40.
    """
    pixels, longest = image_size**2, min(image_size**2 // step, int(image_size * max_aspect))
    wide = {(side, pixels // side // step * step) for side in range(step, longest + 1, step)}
    sizes = {size for width, height in wide for size in ((width, height), (height, width)) if max(size) <= max_aspect * min(size)}
    return sorted(sizes, key=lambda size: size[0] / size[1])


def nearest_bucket(pixels: np.ndarray, sizes: Sequence[BucketSize]) -> np.ndarray:
    """The bucket whose aspect is nearest in logarithm. pixels (n, 2) height and width -> numbers into `sizes` (n,), unsigned and small."""
    aspects = np.array([width / height for width, height in sizes])
    edges = np.sqrt(aspects[:-1] * aspects[1:])  # the middle in logarithm; roots are rounded alike on every machine, logarithms are not
    return np.searchsorted(edges, pixels[:, 1] / pixels[:, 0]).astype(np.min_scalar_type(len(sizes) - 1))


def bucket_numbers(shards: ShardSet, sizes: Sequence[BucketSize], each: MapShards = map) -> np.ndarray:
    """The bucket of every sample of a set (n,), in one pass over the indices of its shards; `each` as for `ShardSet`."""
    return np.concatenate([nearest_bucket(pixels, sizes) for pixels in shards.all_pixels(each)])


class BucketOrder:
    """The order of a set in batches of one bucket each.

    Batches are dealt to buckets in the share of their samples, and the k-th batch of a bucket takes the positions from k * batch size on of
    the bucket's own `SampleOrder`: what is left at the end of its epoch fills up with the start of the next. In memory are all sample
    numbers by bucket, 4 bytes each (8 from 2**31 samples on).
    """

    def __init__(self, sizes: Sequence[BucketSize], numbers: np.ndarray, num_bytes: int):
        """numbers (n,): the bucket of every sample, into `sizes`; those without samples are left out. num_bytes: of the whole set."""
        counts = np.bincount(numbers, minlength=len(sizes))
        self.sizes = [size for size, count in zip(sizes, counts, strict=True) if count]
        self.counts: list[int] = counts[counts > 0].tolist()
        self._samples = np.argsort(numbers, kind="stable").astype(np.int32 if len(numbers) < 1 << 31 else np.int64)
        self._starts = np.cumsum([0, *self.counts])
        block = block_samples(len(numbers), num_bytes)
        self._orders = [SampleOrder(count, max(1, min(block, count // WINDOW))) for count in self.counts]
        self._parts = _parts(self.counts)

    @property
    def block(self) -> int:
        """Samples of the largest block."""
        return max(order.block for order in self._orders)

    def size_of(self, position: int, batch_size: int) -> BucketSize:
        """Width and height of the batch that holds a position."""
        bucket, _ = deal(np.array([position // batch_size]), self._parts)
        return self.sizes[int(bucket[0])]

    def __call__(self, position: np.ndarray, seed: int, batch_size: int) -> np.ndarray:
        """Sample numbers (B,) at global positions (B,) of a run whose global micro-batches have `batch_size` samples."""
        batches, which = np.unique(position // batch_size, return_inverse=True)
        bucket, batch = (part[which] for part in deal(batches, self._parts))
        within, samples = batch * batch_size + position % batch_size, np.empty(len(position), np.int64)
        for number in np.unique(bucket).tolist():
            mine = bucket == number
            # a key of its own for each bucket: with one seed, two of one size would be shuffled alike
            samples[mine] = self._samples[self._starts[number] + self._orders[number](within[mine], seed + (number << 40))]
        return samples

    def by_bucket(self, samples: np.ndarray) -> Iterator[tuple[BucketSize, np.ndarray]]:
        """Sample numbers (B,) by bucket, in the given order; only buckets that have some."""
        for size, (low, high) in zip(self.sizes, pairwise(self._starts.tolist()), strict=True):
            own = self._samples[low:high]
            if len(here := samples[own[np.minimum(np.searchsorted(own, samples), high - low - 1)] == samples]):
                yield size, here

    def fewer_than(self, batch_size: int) -> list[BucketSize]:
        """Buckets with fewer samples than a batch, which then holds some more than once."""
        return [bucket for bucket, count in zip(self.sizes, self.counts, strict=True) if count < batch_size]


def _parts(counts: Sequence[int]) -> list[int]:
    """Shares as integers whose sum `deal` takes: the counts themselves, so that no bucket runs ahead. Billions are scaled down."""
    shift = max(0, sum(counts).bit_length() - _PARTS_BITS)
    return [max(1, count >> shift) for count in counts]
