"""A cache on a node's disk for all its processes, from which the least recently used entries go first.

An entry is a file: a head with length and checksum, then the content. It is written as a draft beside its final name, which the writer
holds locked, and renamed. So a kill or a full disk leaves no wrong entry, and a reader of a deleted one still reads it to its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genlib.files import open_regular
from genlib.storage import why

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<8sQI")
_MAGIC = b"genlib 1"
_TOTAL = struct.Struct("<qd")
"""Bytes of all entries, and when they were counted."""
_COUNT_AGAIN_SECONDS = 600.0
_FILLED_SHARE = 0.9
"""Share of the limit that a clean-up leaves filled, so that the next entry does not need another clean-up."""
_REST_SECONDS = 30.0
"""Pause after a failed write, in which nothing is written."""
_DRAFT = ".draft"


class DiskCache:
    """Bytes by key below a limit, shared by the threads and processes of a node."""

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = Path(folder), limit_bytes
        self._rest_until, self._warned = 0.0, False

    def get(self, key: str, make: Callable[[], bytes]) -> bytes | memoryview:
        """The content for a key. Where there is none it is made, once a node however many processes ask, and stored if the disk allows.

        Raises what `make` raises.
        """
        path = self._path(key)
        found = _read(path)
        if found is not None:
            return found
        draft = self._draft(path)
        if draft is None:
            return make()
        try:
            found = _read(path)  # another process may have made it meanwhile
            if found is None:
                found = make()
                self._store(draft, path, found)
            return found
        finally:
            _release(draft, path)

    def has(self, key: str) -> bool:
        """Whether there is an entry for a key; whether it is whole, `get` sees."""
        return self._path(key).exists()

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / name[2:40]  # 256 subfolders, as file systems are slow with very large folders

    def _draft(self, path: Path) -> int | None:
        """A locked draft beside the entry; None where the disk takes none."""
        if time.monotonic() < self._rest_until:
            return None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _locked_draft(_draft_of(path))
        except OSError as error:
            self._warn(error)
            return None

    def _store(self, draft: int, path: Path, content: bytes) -> None:
        size = _HEAD.size + len(content)
        if size > self.limit_bytes:
            return
        try:
            _publish(draft, path, content)
            self._count(size)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        self._rest_until = time.monotonic() + _REST_SECONDS
        if not self._warned:
            log.warning("%s; data from URLs are not cached on this disk meanwhile", why(self.folder, error))
        self._warned = True

    def _count(self, num_bytes: int) -> None:
        """Adds an entry to the total and cleans up above the limit. All entries are counted again from time to time, as a kill may lose a count."""
        with _locked(self.folder / "total") as handle:
            total, counted = _total(handle)
            now = time.time()
            if total + num_bytes > self.limit_bytes or not 0 <= now - counted < _COUNT_AGAIN_SECONDS:
                total, counted, num_bytes = self._clean_up(), now, 0
            os.pwrite(handle, _TOTAL.pack(total + num_bytes, counted), 0)

    def _clean_up(self) -> int:
        """Unlinks drafts of the dead and, above the limit, the entries used least recently; the bytes that stay."""
        entries = sorted(_entries(self.folder))
        total = sum(size for _, size, _ in entries)
        keep = self.limit_bytes if total <= self.limit_bytes else int(self.limit_bytes * _FILLED_SHARE)
        for _, size, path in entries:
            if total <= keep:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
        return total


def _read(path: Path) -> memoryview | None:
    """The content of an entry, which becomes the most recently used; None where there is none or it is not whole."""
    try:
        with open_regular(path) as file:
            data = memoryview(file.readall())
            if len(data) < _HEAD.size:
                return None
            magic, length, checksum = _HEAD.unpack_from(data)
            content = data[_HEAD.size :]
            if magic != _MAGIC or length != len(content) or checksum != zlib.crc32(content):
                return None
            with suppress(OSError):
                _touch(file.fileno())
            return content
    except OSError:
        return None


def _touch(handle: int) -> None:
    now = time.time_ns()  # the kernel's own is some milliseconds coarse
    os.utime(handle, ns=(now, now))


def _draft_of(path: Path) -> Path:
    return path.with_name(path.name + _DRAFT)


def _is(handle: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _locked_draft(draft: Path) -> int:
    """Makes, opens and locks a draft; waits for whoever holds it."""
    while True:
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is(handle, draft):
                return handle
        except BaseException:
            os.close(handle)
            raise
        _unlock(handle)  # it became an entry or was deleted while this process waited for the lock


def _publish(draft: int, path: Path, content: bytes) -> None:
    """Fills a draft and makes it the entry. It is not synced: after a power cut the checksum tells."""
    os.ftruncate(draft, 0)
    with open(draft, "wb", closefd=False) as file:
        file.write(_HEAD.pack(_MAGIC, len(content), zlib.crc32(content)))
        file.write(content)
    _touch(draft)
    os.replace(_draft_of(path), path)


def _release(draft: int, path: Path) -> None:
    """Unlocks a draft; unlinks it where it did not become an entry."""
    with suppress(OSError):
        if _is(draft, _draft_of(path)):
            os.unlink(_draft_of(path))
    _unlock(draft)


def _unlock(handle: int) -> None:
    with suppress(OSError):  # the file system may be gone
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing does not unlock where a fork has the file open too
    os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        _unlock(handle)


def _total(handle: int) -> tuple[int, float]:
    noted = os.pread(handle, _TOTAL.size, 0)
    return _TOTAL.unpack(noted) if len(noted) == _TOTAL.size else (0, 0.0)


def _entries(folder: Path) -> Iterator[tuple[int, int, str]]:
    """(when used, bytes, path) of each entry; drafts that nobody holds are unlinked."""
    for subfolder in os.scandir(folder):
        for file in os.scandir(subfolder.path) if subfolder.is_dir() else ():
            with suppress(FileNotFoundError):
                if file.name.endswith(_DRAFT):
                    _drop_if_left(Path(file.path))
                else:
                    status = file.stat()
                    yield status.st_mtime_ns, status.st_size, file.path


def _drop_if_left(draft: Path) -> None:
    with open_regular(draft) as file, suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(file.fileno(), draft):
            os.unlink(draft)
        fcntl.flock(file, fcntl.LOCK_UN)
