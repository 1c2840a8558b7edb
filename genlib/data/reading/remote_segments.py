"""What lies at URLs, a piece at a time: the members of some neighbouring samples, fetched ahead and kept on the node's disk."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from genlib.data.caches.disk_cache import DiskCache
from genlib.data.order.sample_order import block_samples
from genlib.data.remote import remote_file
from genlib.data.remote.remote_file import RemoteFile, Stamp
from genlib.data.shards.shard_set import Recent, ShardSet

SMALL_PIECE_BYTES = 256 << 10
"""What a piece weighs where the order has no blocks: little enough for the first batch, enough for the rate of requests."""
_MEMORY_BYTES = 64 << 20
_IN_FLIGHT = 16
_AHEAD_TASKS, _AHEAD_BYTES = 8, 128 << 20

T = TypeVar("T")


class Pieces:
    """Members of samples in remote shards. A piece is a block of the order, or what `SMALL_PIECE_BYTES` hold of a small set.

    A process fetches each piece once while it is in memory, a node once while it is on its disk.
    """

    def __init__(self, shards: ShardSet, cache: DiskCache | None = None):
        self.shards, self.cache = shards, cache
        block = block_samples(len(shards), shards.num_bytes)
        self.samples = block if block > 1 else max(1, SMALL_PIECE_BYTES * len(shards) // max(1, shards.num_bytes))
        self._recent = Recent(self._made, _MEMORY_BYTES, lambda piece: len(piece[1]))
        self._fetching: dict[tuple[int, int], Future] = {}
        self._piece_bytes = self.samples * shards.num_bytes // max(1, len(shards))

    def members(self, shard: int, place: int, fields: Sequence[str]) -> list[bytes | None]:
        """Bytes of one sample's members; None where it has none."""
        sample = int(self.shards.starts[shard]) + place
        number = sample // self.samples
        ends, data = self._recent[shard, number]
        row = sample - max(number * self.samples, int(self.shards.starts[shard]))
        columns = [self.shards.fields.index(field) if field in self.shards.fields else -1 for field in fields]
        spots = [row * len(self.shards.fields) + column for column in columns]
        return [bytes(data[int(ends[at]) : int(ends[at + 1])]) if column >= 0 else None for at, column in zip(spots, columns, strict=True)]

    def _is_remote(self, shard: int) -> bool:
        return isinstance(self.shards.paths[shard], RemoteFile)

    def _ranges(self, shard: int, number: int) -> tuple[RemoteFile, Stamp, np.ndarray, np.ndarray]:
        """Where the members of a piece lie: (start, size) of each field of each sample, (n * F, 2), and their checksums, (n, F)."""
        index, rows = self.shards.rows(shard)
        start = int(self.shards.starts[shard])
        mine = rows[max(0, number * self.samples - start) : (number + 1) * self.samples - start]
        columns = [index.fields[field] for field in self.shards.fields]
        assert isinstance(index.place, RemoteFile)
        return index.place, Stamp(index.meta["size"], index.meta["tag"]), index.spans[mine][:, columns].reshape(-1, 2), index.sums[mine][:, columns]

    def _get(self, which: tuple[int, int]) -> tuple[np.ndarray, bytes | memoryview]:
        """Ends of the members in a piece, and their bytes joined."""
        file, stamp, spans, sums = self._ranges(*which)
        ranges = [(start, start + size) for start, size in spans.tolist()]

        def fetch() -> bytes:
            return b"".join(remote_file.read(file, ranges, stamp))

        ends = np.concatenate([[0], np.cumsum(spans[:, 1])])
        if self.cache is None:
            return ends, fetch()
        name = hashlib.sha256(f"{file.url} {stamp.size} {stamp.tag}".encode() + spans.tobytes() + sums.tobytes()).hexdigest()
        return ends, self.cache.get(name, fetch)

    def _made(self, which: tuple[int, int]) -> tuple[np.ndarray, bytes | memoryview]:
        waiting = self._fetching.pop(which, None)
        return waiting.result() if waiting else self._get(which)

    def ahead(self, tasks: Iterable[T], samples_of: Callable[[T], np.ndarray], *, for_others: bool = False) -> Iterator[T]:
        """The same tasks, a few late: the pieces of their samples are fetched meanwhile, `for_others` into the node's disk alone."""
        waiting: deque[tuple[T, list]] = deque()
        with ThreadPoolExecutor(_IN_FLIGHT, "pieces") as threads:
            for task in tasks:
                waiting.append((task, self._fetch(samples_of(task), threads)))
                while len(waiting) > _AHEAD_TASKS or (len(waiting) > 1 and len(self._fetching) * self._piece_bytes > _AHEAD_BYTES):
                    yield self._due(waiting, for_others)
            while waiting:
                yield self._due(waiting, for_others)

    def _due(self, waiting: deque[tuple[T, list]], for_others: bool) -> T:
        task, pieces = waiting.popleft()
        for which in pieces if for_others else ():
            self._fetching.pop(which).result()
        return task

    def _fetch(self, samples: np.ndarray, threads: ThreadPoolExecutor) -> list[tuple[int, int]]:
        """Starts fetching what is missing; which pieces that is."""
        shards, _ = self.shards.locate(samples)
        pieces = dict.fromkeys(zip(shards.tolist(), (samples // self.samples).tolist(), strict=True))
        missing = [which for which in pieces if which not in self._fetching and which not in self._recent and self._is_remote(which[0])]
        self._fetching.update({which: threads.submit(self._get, which) for which in missing})
        return missing
