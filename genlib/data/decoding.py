"""How one rank's rows of a global batch become tensors, in a thread of the worker or in a reader process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from genlib.data.disk_cache import DiskCache
from genlib.data.files import cache_folder
from genlib.data.pieces import Pieces
from genlib.data.reader import Reader
from genlib.data.shards import ShardSet
from genlib.types import Batch, Samples, Transform

_OTHER = 1 << 48  # added to numbers of the second set's samples, where both are named


@dataclass(frozen=True, slots=True)
class Rows:
    """One rank's rows of a global micro-batch: positions, sample numbers, which are no padding, and partners by role; (B,) each."""

    positions: np.ndarray
    samples: np.ndarray
    inside: np.ndarray
    partners: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How rows become batches, in this process or, pickled, in a reader process."""

    shards: ShardSet
    other: ShardSet | None
    """Where partners of the role "other" are."""
    fields: tuple[str, ...]
    transform: Transform
    seed: int
    channels: int
    cache_bytes: int
    disk_cache_bytes: int

    def start(self, at: Callable[[int], None]) -> Callable[[Rows, Mapping[int, str]], Batch]:
        """For `ReaderPool`: called once in the reader process."""
        readers = self.readers(at)
        return lambda rows, bad: self.batch(readers, rows, bad)

    def readers(self, at: Callable[[int], None] | None = None) -> tuple[Reader, Reader | None]:
        """Readers of this process's own, of the set and of the other one."""
        if self.other is None:
            return self._reader(self.shards, at), None
        return self._reader(self.shards, at), self._reader(self.other, at and (lambda sample: at(sample + _OTHER)))

    def _reader(self, shards: ShardSet, at: Callable[[int], None] | None) -> Reader:
        pieces = pieces_of(shards, self.disk_cache_bytes)
        return Reader(shards, channels=self.channels, cache_bytes=self.cache_bytes, pieces=pieces, at=at)

    def batch(self, readers: tuple[Reader, Reader | None], rows: Rows, bad: Mapping[int, str] | None = None) -> Batch:
        """Tensors of the rows; `failed` (B,) says why one is a stand-in, or a partner of it is, see `Reader.read`."""
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
        batch["position"] = torch.from_numpy(rows.positions)
        batch["weight"] = torch.from_numpy((rows.inside & (failed == 0)).astype(np.float32))
        batch["failed"] = torch.from_numpy(failed)
        return batch

    def _read(self, reader: Reader, numbers: np.ndarray, rows: Rows, bad: Mapping[int, str] | None) -> Samples:
        fields = [field for field in self.fields if field in reader.shards.fields]
        keys, values, failed = reader.read(numbers, fields, self.transform.image_size, bad)
        return Samples(position=rows.positions, keys=keys, fields=values, failed=failed, seed=self.seed, partners={})


def pieces_of(shards: ShardSet, disk_cache_bytes: int) -> Pieces | None:
    """What fetches shards that lie at URLs."""
    if not shards.paths.any_remote:
        return None
    return Pieces(shards, DiskCache(cache_folder() / "pieces", disk_cache_bytes) if disk_cache_bytes else None)
