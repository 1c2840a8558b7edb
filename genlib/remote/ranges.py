"""Ranges of one object's bytes: few requests for many ranges, each resumed where it was cut off, all of one version."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from genlib.remote.clients import RemoteSettings, StoreClient, client_of, printable_url
from genlib.remote.retry import BadAnswerError, PastEndError, with_retries

_CHUNK_BYTES = 256 << 10
"""A request that breaks off loses less than this."""

Range = tuple[int, int]
"""First byte, and the one after the last."""


class ObjectChangedError(ValueError):
    """The object is another one than the one that was asked for."""

    def __init__(self, url: str):
        super().__init__(f"{printable_url(url)} is not what it was when it was indexed; index it again and start a new run")


@dataclass(frozen=True, slots=True)
class FileVersion:
    """Version of a file's content."""

    size: int
    """Bytes."""
    tag: str
    """The ETag of an object, else the time of its last modification, else ""."""
    changed: str = ""
    """The time at which content or name of a local file changed last (ctime), which no program can set; "" for objects."""

    @classmethod
    def of(cls, meta: Any) -> FileVersion:
        """The version in an object's metadata."""
        modified = meta["last_modified"]
        return cls(meta["size"], meta["e_tag"] or (modified.isoformat() if modified.timestamp() else ""))


@dataclass(slots=True)
class _Download:
    """One range, and the chunks of it that arrived."""

    url: str
    wanted: Range
    version: FileVersion | None
    chunks: list[bytes]
    num_bytes: int = 0

    def resume(self, client: StoreClient, path: str) -> FileVersion:
        """One request for the bytes that are missing."""
        import obstore

        if self.version and not self.version.tag:  # nothing would tell whether the rest is of the same content as the beginning
            self._restart()
        start, end = self.wanted
        with client.limit:
            answer = obstore.get(client.store, path, options={"range": (start + self.num_bytes, end)})
            found = FileVersion.of(answer.meta)
            if self.version not in (None, found):
                raise ObjectChangedError(self.url)
            self.version = found
            self._take(answer, min(end, found.size) - start)
        return found

    def _take(self, answer: Any, length: int) -> None:
        for chunk in answer.stream(_CHUNK_BYTES):
            self.chunks.append(chunk)
            self.num_bytes += len(chunk)
            if self.num_bytes > length:
                self._restart()
                raise BadAnswerError("more bytes came than were promised")
        if self.num_bytes < length:
            raise BadAnswerError("fewer bytes came than were promised")

    def _restart(self) -> None:
        self.chunks.clear()
        self.num_bytes = 0


def fetch(url: str, wanted: Range, version: FileVersion | None, settings: RemoteSettings) -> tuple[FileVersion, list[bytes]]:
    """The object's version and those of the wanted bytes that it has, in chunks.

    ObjectChangedError where it is of another version, `PastEndError` where it ends before the range, OSError after the last try.
    """
    client, path = client_of(url, settings)
    download = _Download(url, wanted, version, [])
    try:
        return with_retries(url, settings, lambda: download.resume(client, path)), download.chunks
    except PastEndError:
        if version and version.size > wanted[0]:
            raise ObjectChangedError(url) from None
        raise


def fetch_all(url: str, parts: Sequence[Range], version: FileVersion | None, settings: RemoteSettings) -> Iterator[tuple[int, bytes]]:
    """(first byte, chunk) for all bytes of several ranges of one version, requested in parallel. Raises what `fetch` raises."""
    if len(parts) < 2:
        answers = [fetch(url, part, version, settings) for part in parts]
    else:
        client, _ = client_of(url, settings)
        answers = list(client.threads.map(lambda part: fetch(url, part, version, settings), parts))
    if len({found for found, _ in answers}) > 1:
        raise ObjectChangedError(url)
    for (start, end), (found, chunks) in zip(parts, answers, strict=True):
        if found.size < end:
            raise PastEndError(f"{printable_url(url)} ends at {found.size}")
        yield from zip(accumulate(map(len, chunks), initial=start), chunks, strict=False)


def plan_requests(ranges: Iterable[Range], settings: RemoteSettings) -> list[Range]:
    """Requests for some ranges, sorted and disjoint: ranges joined over small gaps, then cut at `request_bytes`."""
    runs: list[list[int]] = []
    for start, end in sorted(wanted for wanted in ranges if wanted[0] < wanted[1]):
        if runs and start - runs[-1][1] <= settings.gap_bytes:
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([start, end])
    step = settings.request_bytes
    return [(at, min(at + step, end)) for start, end in runs for at in range(start, end, step)]


def join_range(wanted: Range, starts: Sequence[int], chunks: Sequence[bytes]) -> bytes:
    """The bytes of a range, out of sorted chunks that start at `starts`."""
    at, end = wanted
    number = bisect_right(starts, at) - 1
    parts = []
    while at < end:
        parts.append(memoryview(chunks[number])[at - starts[number] : end - starts[number]])
        at, number = at + len(parts[-1]), number + 1
    return b"".join(parts)
