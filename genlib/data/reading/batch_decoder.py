"""How one rank's rows of a global batch become tensors, in a thread of the worker or in a reader process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from genlib.data.caches.disk_cache import DiskCache
from genlib.data.reading.reader import Reader
from genlib.data.reading.remote_segments import Pieces
from genlib.data.shards.shard_set import ShardSet
from genlib.files import cache_folder
from genlib.types import Batch, Encoded, Samples, Transform

_OTHER = 1 << 48  # added to numbers of the second set's samples, where both are named


@dataclass(frozen=True, slots=True)
class Rows:
    """One rank's rows of a global micro-batch: positions, sample numbers, which are no padding, and partners by role; (B,) each.

    `size` is the width and height in pixels of its aspect-ratio bucket, None where there are none.
    """

    positions: np.ndarray
    samples: np.ndarray
    inside: np.ndarray
    partners: Mapping[str, np.ndarray] = field(default_factory=dict)
    size: tuple[int, int] | None = None


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
    stored: Encoded | None = None
    """What was made of samples before; a batch that is all there needs no decoding."""

    def start(self, at: Callable[[int], None]) -> Callable[[Rows, Mapping[int, str]], Batch]:
        """For `ReaderPool`: called once in the reader process."""
        readers = self._reader(self.shards, at), self._reader(self.other, lambda sample: at(sample + _OTHER)) if self.other else None
        return lambda rows, bad: self.batch(readers, rows, bad)

    def _reader(self, shards: ShardSet, at: Callable[[int], None]) -> Reader:
        pieces = pieces_of(shards, self.disk_cache_bytes)
        return Reader(shards, channels=self.channels, cache_bytes=self.cache_bytes, pieces=pieces, at=at)

    def batch(self, readers: tuple[Reader, Reader | None], rows: Rows, bad: Mapping[int, str] | None = None) -> Batch:
        """Tensors of the rows; `failed` (B,) says why one is a stand-in, or a partner of it is, see `Reader.read`.

        `readers` are of the set and of the other one.
        """
        if self.stored is not None and (kept := self._kept(self.stored, readers[0], rows, bad)) is not None:
            return kept
        samples = self._read(readers[0], rows.samples, rows, bad)
        failed = samples.failed
        for role, numbers in rows.partners.items():
            reader = readers[1] if role == "other" else readers[0]
            assert reader is not None
            known = {sample - _OTHER: reason for sample, reason in (bad or {}).items()} if role == "other" else bad
            partner = self._read(reader, numbers, rows, known)
            samples.partners[role] = partner
            failed = np.where(failed > 0, failed, partner.failed)
        return {**self.transform(samples), **_facts(rows, failed)}

    def _kept(self, stored: Encoded, reader: Reader, rows: Rows, bad: Mapping[int, str] | None) -> Batch | None:
        """The batch out of the store; None where that lacks a sample which can be decoded. For one that cannot, another stands in."""
        absent = ~stored.has(rows.samples)
        if absent.all():
            return None
        failed, samples = np.zeros(len(absent), np.uint8), rows.samples
        if absent.any():
            failed[absent] = self._read(reader, samples[absent], rows, bad).failed
            if not failed[absent].all():
                return None
            samples = np.where(absent, samples[~absent][0], samples)
        kept = stored.read(samples)
        return kept and {**kept, "encoded": torch.ones(len(samples), dtype=torch.bool), **_facts(rows, failed)}

    def _read(self, reader: Reader, numbers: np.ndarray, rows: Rows, bad: Mapping[int, str] | None) -> Samples:
        fields = [field for field in self.fields if field in reader.shards.fields]
        at_least = self.transform.image_size if rows.size is None else self.transform.image_size and (rows.size[1], rows.size[0])
        keys, values, failed = reader.read(numbers, fields, at_least, bad)
        stored = reader.shards.pixels(numbers)[:, ::-1] if "image" in fields else np.zeros((0, 2))
        facts = {"seed": self.seed, "size": rows.size, "original_sizes": stored.astype(np.int64)}
        return Samples(position=rows.positions, keys=keys, fields=values, failed=failed, partners={}, **facts)


def _facts(rows: Rows, failed: np.ndarray) -> Batch:
    """What every batch says of its rows."""
    return {
        "position": torch.from_numpy(rows.positions),
        "sample": torch.from_numpy(rows.samples),
        "weight": torch.from_numpy((rows.inside & (failed == 0)).astype(np.float32)),
        "failed": torch.from_numpy(failed),
    }


def pieces_of(shards: ShardSet, disk_cache_bytes: int) -> Pieces | None:
    """What fetches shards that lie at URLs."""
    if not shards.paths.any_remote:
        return None
    return Pieces(shards, DiskCache(cache_folder() / "pieces", disk_cache_bytes) if disk_cache_bytes else None)
