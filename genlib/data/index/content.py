"""The bytes of a whole file by slices, read and never mapped.

A mapped file that becomes shorter ends the process with SIGBUS; one that is read gives an exception.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from io import FileIO

from genlib.files import read_at

_AHEAD_BYTES, _SMALLEST_BYTES = 1 << 18, 1 << 16  # a read of at most 256 KiB stays in a core's own cache


class FileChangedError(ValueError):
    """A file was written while it was read."""

    def __init__(self, name: object):
        super().__init__(f"{name} changed while it was indexed; start again when nothing writes it any more")


class FileContent:
    """Slices `[start:stop]` of a file as it was when it was opened; `name` is for messages. Small slices in stored order are read ahead.

    FileChangedError where the file became shorter, OSError where it cannot be read.
    """

    def __init__(self, file: FileIO, name: object):
        self._file, self._name = file, name
        self._status = os.fstat(file.fileno())
        self._size = self._status.st_size
        self._start, self._end, self._ahead, self._step = 0, 0, b"", _SMALLEST_BYTES

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, first = part.start, part.stop, self._start
        if first <= start and stop <= self._end:
            return self._ahead[start - first : stop - first]
        stop = min(stop, self._size)
        if stop - start >= _SMALLEST_BYTES or stop <= start:
            return self._read(start, stop) if start < stop else b""
        if not first <= start <= stop <= self._end:
            self._read_ahead(start)
        return self._ahead[start - self._start : stop - self._start]

    def _read_ahead(self, start: int) -> None:
        """Reads twice as much each time that slices follow each other, up to `_AHEAD_BYTES`."""
        follows = self._start <= start <= self._end + self._step
        self._step = min(_AHEAD_BYTES, 2 * self._step) if follows else _SMALLEST_BYTES
        self._ahead = self._read(start, min(start + self._step, self._size))
        self._start, self._end = start, start + len(self._ahead)

    def _read(self, start: int, stop: int) -> bytes:
        found = read_at(self._file, max(0, stop - start), start)
        if len(found) < stop - start:
            raise FileChangedError(self._name)
        return found

    def sha256(self, more: bytes = b"") -> str:
        """SHA-256 of all bytes followed by `more`, in hexadecimal digits."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        digest.update(more)
        return digest.hexdigest()

    def _chunks(self) -> Iterator[bytes]:
        return (self._read(start, min(start + _AHEAD_BYTES, self._size)) for start in range(0, self._size, _AHEAD_BYTES))

    def check_unchanged(self, size: int) -> None:
        """FileChangedError where the file is not of that size, or not what it was when it was opened."""
        status = os.fstat(self._file.fileno())
        if self._size != size or any(getattr(status, name) != getattr(self._status, name) for name in ("st_size", "st_mtime_ns", "st_ctime_ns")):
            raise FileChangedError(self._name)
