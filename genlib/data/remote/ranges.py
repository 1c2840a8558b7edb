"""Ranges of one object's bytes: few requests for many ranges, each going on where it was cut off, all of the same content."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from genlib.data.remote.clients import Client, Settings, client_of, shown
from genlib.data.remote.retry import BeyondError, UnfitError, patiently

_CHUNK_BYTES = 256 << 10
"""A request that breaks off loses less than this."""

Range = tuple[int, int]
"""First byte, and the one after the last."""


class ChangedError(ValueError):
    """The object is another one than the one that was asked for."""

    def __init__(self, url: str):
        super().__init__(f"{shown(url)} is not what it was when it was first looked at; index it again and start a new run")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one content of a file from another."""

    size: int
    """Bytes."""
    tag: str
    """Its ETag, else when it was modified last, else ""."""
    changed: str = ""
    """Of a local file, when its content or its name changed last, which nobody can set."""

    @classmethod
    def of(cls, meta: Any) -> Stamp:
        """The stamp in what a store says of an object."""
        modified = meta["last_modified"]
        return cls(meta["size"], meta["e_tag"] or (modified.isoformat() if modified.timestamp() else ""))


@dataclass(slots=True)
class _Download:
    """One range, as far as it came."""

    url: str
    wanted: Range
    stamp: Stamp | None
    chunks: list[bytes]
    num_bytes: int = 0

    def go_on(self, client: Client, path: str) -> Stamp:
        """One try for the bytes that lack."""
        import obstore

        if self.stamp and not self.stamp.tag:  # nothing would tell whether the rest belongs to the beginning
            self._forget()
        start, end = self.wanted
        with client.slots:
            answer = obstore.get(client.store, path, options={"range": (start + self.num_bytes, end)})
            met = Stamp.of(answer.meta)
            if self.stamp not in (None, met):
                raise ChangedError(self.url)
            self.stamp = met
            self._take(answer, min(end, met.size) - start)
        return met

    def _take(self, answer: Any, length: int) -> None:
        for chunk in answer.stream(_CHUNK_BYTES):
            self.chunks.append(chunk)
            self.num_bytes += len(chunk)
            if self.num_bytes > length:
                self._forget()
                raise UnfitError("more bytes came than were promised")
        if self.num_bytes < length:
            raise UnfitError("fewer bytes came than were promised")

    def _forget(self) -> None:
        self.chunks.clear()
        self.num_bytes = 0


def fetch(url: str, wanted: Range, stamp: Stamp | None, settings: Settings) -> tuple[Stamp, list[bytes]]:
    """The object's stamp and those of the wanted bytes that it has, in chunks.

    ChangedError where it is not the stamp's any more, `BeyondError` where it ends before the range, OSError after the last try.
    """
    client, path = client_of(url, settings)
    download = _Download(url, wanted, stamp, [])
    try:
        return patiently(url, settings, lambda: download.go_on(client, path)), download.chunks
    except BeyondError:
        if stamp and stamp.size > wanted[0]:
            raise ChangedError(url) from None
        raise


def fetch_all(url: str, parts: Sequence[Range], stamp: Stamp | None, settings: Settings) -> Iterator[tuple[int, bytes]]:
    """(where it begins, chunk) for all bytes of several ranges of one content, asked for at once. Raises what `fetch` raises."""
    if len(parts) < 2:
        answers = [fetch(url, part, stamp, settings) for part in parts]
    else:
        client, _ = client_of(url, settings)
        answers = list(client.threads.map(lambda part: fetch(url, part, stamp, settings), parts))
    if len({met for met, _ in answers}) > 1:
        raise ChangedError(url)
    for (start, end), (met, chunks) in zip(parts, answers, strict=True):
        if met.size < end:
            raise BeyondError(f"{shown(url)} ends at {met.size}")
        yield from zip(accumulate(map(len, chunks), initial=start), chunks, strict=False)


def plan(ranges: Iterable[Range], settings: Settings) -> list[Range]:
    """What to ask for: ranges joined over small gaps, then cut into requests; sorted and disjoint."""
    runs: list[list[int]] = []
    for start, end in sorted(wanted for wanted in ranges if wanted[0] < wanted[1]):
        if runs and start - runs[-1][1] <= settings.gap_bytes:
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([start, end])
    step = settings.request_bytes
    return [(at, min(at + step, end)) for start, end in runs for at in range(start, end, step)]


def cut(wanted: Range, starts: Sequence[int], chunks: Sequence[bytes]) -> bytes:
    """Bytes of a range out of sorted chunks, which may lie in several of them."""
    at, end = wanted
    number = bisect_right(starts, at) - 1
    pieces = []
    while at < end:
        pieces.append(memoryview(chunks[number])[at - starts[number] : end - starts[number]])
        at, number = at + len(pieces[-1]), number + 1
    return b"".join(pieces)
