"""Members of shards at URLs, fetched ahead by segments of neighbouring samples and kept on the node's disk."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from genlib.data.caches.disk_cache import DiskCache
from genlib.data.order.sample_order import block_samples
from genlib.data.shards.shard_set import ShardSet
from genlib.lru_cache import LruCache
from genlib.remote import remote_file
from genlib.remote.remote_file import FileVersion, RemoteFile

SMALL_SEGMENT_BYTES = 256 << 10
"""Size of a segment where blocks are single samples: small, so that the first batch comes soon, and not so small that requests are many."""
_MEMORY_BYTES = 64 << 20  # of segments in a process
_IN_FLIGHT = 16  # segments that are fetched at once
_AHEAD_TASKS, _AHEAD_BYTES = 8, 128 << 20  # what is fetched ahead at most

T = TypeVar("T")


class RemoteSegments:
    """Members of samples in remote shards.

    A segment is a block of the order, or where blocks are single samples, as many as `SMALL_SEGMENT_BYTES` hold. A process fetches each
    once while it is in memory, a node once while it is on its disk.
    """

    def __init__(self, shards: ShardSet, cache: DiskCache | None = None):
        self.shards, self.cache = shards, cache
        block = block_samples(len(shards), shards.num_bytes)
        self.samples = block if block > 1 else max(1, SMALL_SEGMENT_BYTES * len(shards) // max(1, shards.num_bytes))
        self._recent = LruCache(self._take, _MEMORY_BYTES, lambda segment: len(segment[1]))
        self._fetching: dict[tuple[int, int], Future] = {}
        self._segment_bytes = self.samples * shards.num_bytes // max(1, len(shards))

    def members(self, shard: int, ordinal: int, fields: Sequence[str]) -> list[bytes | None]:
        """Bytes of one sample's members; None where it has none."""
        sample = int(self.shards.starts[shard]) + ordinal
        number = sample // self.samples
        ends, data = self._recent[shard, number]
        row = sample - max(number * self.samples, int(self.shards.starts[shard]))
        columns = [self.shards.stored.index(field) if field in self.shards.stored else -1 for field in fields]
        columns_at = [row * len(self.shards.stored) + column for column in columns]
        return [bytes(data[int(ends[at]) : int(ends[at + 1])]) if column >= 0 else None for at, column in zip(columns_at, columns, strict=True)]

    def _is_remote(self, shard: int) -> bool:
        return isinstance(self.shards.paths[shard], RemoteFile)

    def _ranges(self, shard: int, number: int) -> tuple[RemoteFile, FileVersion, np.ndarray, np.ndarray]:
        """File, version, and members of a segment: (start, size) of each field of each sample, (n * F, 2), and their checksums, (n, F)."""
        index, rows = self.shards.rows(shard)
        start = int(self.shards.starts[shard])
        mine = rows[max(0, number * self.samples - start) : (number + 1) * self.samples - start]
        columns = [index.fields[field] for field in self.shards.stored]
        assert isinstance(index.path, RemoteFile)
        return (
            index.path,
            FileVersion(index.meta["size"], index.meta["tag"]),
            index.spans[mine][:, columns].reshape(-1, 2),
            index.sums[mine][:, columns],
        )

    def _load(self, which: tuple[int, int]) -> tuple[np.ndarray, bytes | memoryview]:
        """Ends of the members in a segment, and their bytes joined."""
        file, version, spans, sums = self._ranges(*which)
        ranges = [(start, start + size) for start, size in spans.tolist()]

        def fetch() -> bytes:
            return b"".join(remote_file.read(file, ranges, version))

        ends = np.concatenate([[0], np.cumsum(spans[:, 1])])
        if self.cache is None:
            return ends, fetch()
        name = hashlib.sha256(f"{file.url} {version.size} {version.tag}".encode() + spans.tobytes() + sums.tobytes()).hexdigest()
        return ends, self.cache.get(name, fetch)

    def _take(self, which: tuple[int, int]) -> tuple[np.ndarray, bytes | memoryview]:
        waiting = self._fetching.pop(which, None)
        return waiting.result() if waiting else self._load(which)

    def ahead(self, tasks: Iterable[T], samples_of: Callable[[T], np.ndarray], *, for_others: bool = False) -> Iterator[T]:
        """The same tasks, a few late, while the segments of their samples are fetched.

        `for_others`: other processes read them, and a task is due once its segments are on the node's disk.
        """
        waiting: deque[tuple[T, list]] = deque()
        with ThreadPoolExecutor(_IN_FLIGHT, "segments") as threads:
            for task in tasks:
                waiting.append((task, self._start_fetching(samples_of(task), threads)))
                while len(waiting) > _AHEAD_TASKS or (len(waiting) > 1 and len(self._fetching) * self._segment_bytes > _AHEAD_BYTES):
                    yield self._next_task(waiting, for_others)
            while waiting:
                yield self._next_task(waiting, for_others)

    def _next_task(self, waiting: deque[tuple[T, list]], for_others: bool) -> T:
        task, segments = waiting.popleft()
        for which in segments if for_others else ():
            self._fetching.pop(which).result()
        return task

    def _start_fetching(self, samples: np.ndarray, threads: ThreadPoolExecutor) -> list[tuple[int, int]]:
        """Starts to fetch the segments of some samples that are missing; returns these."""
        shards, _ = self.shards.locate(samples)
        segments = dict.fromkeys(zip(shards.tolist(), (samples // self.samples).tolist(), strict=True))
        missing = [which for which in segments if which not in self._fetching and which not in self._recent and self._is_remote(which[0])]
        self._fetching.update({which: threads.submit(self._load, which) for which in missing})
        return missing
