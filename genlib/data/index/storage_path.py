"""Paths of shards, local or at URLs: their version, their bytes, and lists of many of them."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import numpy as np

from genlib.data.index.content import FileContent
from genlib.files import cache_folder, open_regular, regular_status
from genlib.remote import remote_file
from genlib.remote.remote_file import FileVersion, RemoteFile

StoragePath = Path | RemoteFile
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class PathList:
    """A list of storage paths in little memory: one string of names without their common beginning, and where each ends."""

    def __init__(self, paths: Iterable[StoragePath]):
        names = [path.url if isinstance(path, RemoteFile) else str(path) for path in paths]
        # the beginning that the smallest and the largest name share, all names in between share too
        self._start = _common_start(min(names), max(names)) if names else ""
        rest = [name[len(self._start) :].encode() for name in names]
        self._ends, self._names = np.cumsum([len(name) for name in rest], dtype=np.int64), b"".join(rest)

    @property
    def any_remote(self) -> bool:
        """Whether one of them is a URL."""
        return "://" in self._start or b"://" in self._names

    def arrays(self) -> dict[str, np.ndarray]:
        """The list as plain arrays."""
        start, names = (np.frombuffer(text, np.uint8) for text in (self._start.encode(), self._names))
        return {"name_start": start, "name_ends": self._ends, "names": names}

    @classmethod
    def of(cls, name_start: np.ndarray, name_ends: np.ndarray, names: np.ndarray) -> PathList:
        """The inverse of `arrays`."""
        made = cls(())
        made._start, made._ends, made._names = name_start.tobytes().decode(), name_ends, names.tobytes()
        return made

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[StoragePath]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> StoragePath:
        number = range(len(self))[number]
        begin = int(self._ends[number - 1]) if number else 0
        where = self._start + self._names[begin : int(self._ends[number])].decode()
        return RemoteFile(where) if remote_file.is_remote(where) else Path(where)


def _common_start(one: str, other: str) -> str:
    return one[: next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))]


def stat(path: StoragePath) -> FileVersion:
    """Version of a shard. ValueError where a local one is no regular file that can be opened."""
    if isinstance(path, RemoteFile):
        return remote_file.stat(path)
    with _in_words(path):
        status = regular_status(path)
    return FileVersion(status.st_size, str(status.st_mtime_ns), str(status.st_ctime_ns))


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Turns an error of opening a shard into one sentence (ValueError); passing errors of a disk stay OSError, as another try may help."""
    try:
        yield
    except OSError as error:
        if error.errno in _PASSING:
            raise
        raise ValueError(f"shard {path} cannot be opened ({error.strerror}); repair it, or take it out of the data set") from None


@contextmanager
def open_content(path: StoragePath) -> Iterator[FileContent]:
    """All bytes of a shard. A remote one is downloaded into a temporary file without a name."""
    if isinstance(path, Path):
        with _in_words(path):
            opened = open_regular(path)
        with opened as file:
            yield FileContent(file, f"shard {path}")
        return
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache_folder()) as file:
        for chunk in remote_file.stream(path):
            file.write(chunk)
        file.flush()
        with FileIO(file.fileno(), closefd=False) as raw:
            yield FileContent(raw, f"shard {path}")
