"""Local files: regular ones alone, atomic writes, locks; and the cache folder."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class IrregularError(OSError):
    """A folder, a pipe, a socket or a device where a file is wanted."""


def cache_folder() -> Path:
    """Folder for built-in sets, sidecars of read-only shards and other caches: `GENLIB_CACHE`, by default ~/.cache/genlib."""
    return Path(os.environ.get("GENLIB_CACHE") or Path.home() / ".cache" / "genlib")


def regular_status(path: Path) -> os.stat_result:
    """The status of a regular file, links followed. OSError where there is none, `IrregularError` where it is something else."""
    status = os.stat(path)
    _check_regular(status, path)
    return status


def open_regular(path: Path) -> FileIO:
    """Opens a regular file to read. OSError as `regular_status`. Nothing else is opened, as to open a pipe may hang and to open a device may act."""
    regular_status(path)
    file = FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # a pipe may have taken its place since
    try:
        _check_regular(os.fstat(file.fileno()), path)
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise IrregularError(errno.EINVAL, f"it is {kind} and no regular file", str(path))


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """The content of a regular file. OSError where there is none, it cannot be read, or it has more bytes."""
    with open_regular(path) as file:
        size = min(limit_bytes, os.fstat(file.fileno()).st_size) + 1
        content = read_at(file, size, 0)
    if len(content) > limit_bytes:
        raise OSError(errno.EFBIG, f"it has more than {limit_bytes:,} bytes", str(path))
    return content


def read_at(file: FileIO, size: int, offset: int) -> bytes:
    """`size` bytes of a file from `offset` on, fewer where it ends before. OSError names the file.

    Read and not mapped: of a file that was cut the end is missing, where a mapped one would end the process with SIGBUS.
    """
    try:
        found = os.pread(file.fileno(), size, offset)
        while 0 < len(found) < size and (more := os.pread(file.fileno(), size - len(found), offset + len(found))):
            found += more
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file.name)) from None
    return found


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Writes a file that is either whole or absent, with the permissions `mode`; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)  # mkstemp's own is for its user alone, less what the umask takes
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file, against other processes of this node; waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
