"""One rank's rows of a global batch to tensors, in a thread of the worker or in a reader process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from genlib import random
from genlib.config import Color
from genlib.data.caches.disk_cache import DiskCache
from genlib.data.reading.reader import SampleReader
from genlib.data.reading.remote_segments import RemoteSegments
from genlib.data.shards.shard_set import ShardSet
from genlib.files import cache_folder
from genlib.types import Batch, Samples, Transform

_OTHER = 1 << 48  # added to sample numbers of the second set where numbers of both sets meet
_DISK_CACHE = "pieces"  # the folder's name on nodes that have such a cache already


@dataclass(frozen=True, slots=True)
class BatchRows:
    """One rank's rows of a global micro-batch, each array (B,)."""

    positions: np.ndarray
    samples: np.ndarray
    """Sample numbers."""
    valid: np.ndarray
    """False for padding."""
    partners: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Sample numbers of partners by role."""
    bucket_size: tuple[int, int] | None = None
    """Width and height in pixels of the batch's aspect-ratio bucket; None without buckets."""

    def to_read(self) -> np.ndarray:
        """Samples of the set itself: the rows' own and their partners."""
        return np.concatenate([self.samples, *(samples for role, samples in self.partners.items() if role != "other")])


@dataclass(frozen=True, slots=True)
class BatchDecoder:
    """Makes batches of rows, in this process or, pickled, in a reader process."""

    shards: ShardSet
    other: ShardSet | None
    """The set of partners of the role "other"."""
    fields: tuple[str, ...]
    transform: Transform
    seed: int
    channels: int
    background: Color
    cache_bytes: int
    disk_cache_bytes: int
    draws: bool = False
    """Whether one of a sample's several captions is drawn, by its position; otherwise the first counts."""

    def start(self, on_sample: Callable[[int], None]) -> Callable[[BatchRows, Mapping[int, str]], Batch]:
        """See `ReaderWork`."""
        readers = self._reader(self.shards, on_sample), self._reader(self.other, lambda sample: on_sample(sample + _OTHER)) if self.other else None
        return lambda rows, bad: self.decode(readers, rows, bad)

    def _reader(self, shards: ShardSet, on_sample: Callable[[int], None]) -> SampleReader:
        segments = segments_of(shards, self.disk_cache_bytes)
        return SampleReader(
            shards, channels=self.channels, background=self.background, cache_bytes=self.cache_bytes, segments=segments, on_sample=on_sample
        )

    def decode(self, readers: tuple[SampleReader, SampleReader | None], rows: BatchRows, bad: Mapping[int, str] | None = None) -> Batch:
        """Tensors of the rows; `failed` (B,) says why one is a stand-in, or a partner of it is, see `SampleReader.read`; the transform may
        know of more.

        `readers` are of the set and of the other one.
        """
        samples = self._read(readers[0], rows.samples, rows, bad)
        failed = samples.failed
        for role, numbers in rows.partners.items():
            reader = readers[1] if role == "other" else readers[0]
            assert reader is not None
            known = {sample - _OTHER: reason for sample, reason in (bad or {}).items()} if role == "other" else bad
            partner = self._read(reader, numbers, rows, known)
            samples.partners[role] = partner
            failed = np.where(failed > 0, failed, partner.failed)
        batch = self.transform(samples)
        if "failed" in batch:
            failed = np.maximum(failed, batch["failed"].numpy())
        return {**batch, **_facts(rows, failed)}

    def _read(self, reader: SampleReader, numbers: np.ndarray, rows: BatchRows, bad: Mapping[int, str] | None) -> Samples:
        fields = [field for field in self.fields if field in reader.shards.fields]
        at_least = self.transform.image_size if rows.bucket_size is None else self.transform.image_size and (rows.bucket_size[1], rows.bucket_size[0])
        keys, values, failed = reader.read(numbers, fields, at_least, bad, self._draws(reader.shards, rows.positions))
        stored = reader.shards.pixels(numbers)[:, ::-1] if "image" in fields else np.zeros((0, 2))
        facts = {"seed": self.seed, "bucket_size": rows.bucket_size, "original_sizes": stored.astype(np.int64)}
        return Samples(position=rows.positions, keys=keys, fields=values, failed=failed, partners={}, **facts)

    def _draws(self, shards: ShardSet, positions: np.ndarray) -> list[float] | None:
        if not self.draws or shards.captions is None or shards.captions.draw != "random":
            return None
        return random.uniform(torch.from_numpy(positions), seed=self.seed, stream="captions").tolist()


def _facts(rows: BatchRows, failed: np.ndarray) -> Batch:
    """Fields of every batch."""
    return {
        "position": torch.from_numpy(rows.positions),
        "sample": torch.from_numpy(rows.samples),
        "valid": torch.from_numpy(rows.valid & (failed == 0)),
        "failed": torch.from_numpy(failed),
    }


def segments_of(shards: ShardSet, disk_cache_bytes: int) -> RemoteSegments | None:
    """Fetches the members of shards at URLs; None where all shards are local."""
    if not shards.paths.any_remote:
        return None
    return RemoteSegments(shards, DiskCache(cache_folder() / _DISK_CACHE, disk_cache_bytes) if disk_cache_bytes else None)
