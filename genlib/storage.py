"""Places that cannot be written: which one and why, in a sentence; and lines that wait in memory until there is room for them."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from genlib.plurals import counted

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
"""No room, quota, read-only, broken, larger than a file may be: what the next attempt meets again until somebody does something."""
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP}
_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
"""In messages of errors that are no OSError, such as safetensors', or that quote one."""
_WAITING_BYTES = 64 << 20
_PROBE_BYTES = 4096


class StorageError(RuntimeError):
    """What must be kept has no place, which no retry cures; the message is a sentence for the user with the way out."""


def lacks_room(error: BaseException) -> bool:
    """Whether a file system took no more (full, over quota, read-only, broken), whichever library says so."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _NUMBER.search(str(error))):
        number = int(found[1] or found[2])
    cause = getattr(error, "cause", None)  # Ray's errors
    return number in _NO_ROOM or (isinstance(cause, BaseException) and cause is not error and lacks_room(cause))


def file_system(path: Path) -> str:
    """Mount point and free space of the file system that a path is on, or would be."""
    path = path.resolve()
    there = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
    mount = next((folder for folder in (there, *there.parents) if os.path.ismount(folder)), Path("/"))
    try:
        status = os.statvfs(there)
    except OSError as error:
        return f"the file system at {mount} does not answer ({error.strerror})"
    return f"the file system at {mount} has {_size(status.f_bavail * status.f_frsize)} of {_size(status.f_blocks * status.f_frsize)} free"


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def why(path: Path, error: BaseException) -> str:
    """Which file could not be written and why, with its file system."""
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error).strip() or type(error).__name__
    return f"{path} cannot be written: {reason}; {file_system(path)}"


def stopped(error: BaseException, folder: Path) -> StorageError:
    """What ends work in the folder where a file system took no more."""
    if isinstance(error, StorageError):
        return error
    name = getattr(error, "filename", None)
    if isinstance(name, str | os.PathLike):
        return StorageError(f"{why(Path(os.fsdecode(name)), error)}; make room there, then the same command goes on")
    places = dict.fromkeys(map(file_system, (folder.absolute(), Path(tempfile.gettempdir()))))  # a failed write does not tell its file
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error).strip()
    return StorageError(f"a file of {folder} cannot be written: {reason}; {', '.join(places)}; make room, then the same command goes on")


def gone(folder: Path) -> StorageError:
    """What ends work in a folder that is not there any more."""
    return StorageError(
        f"the folder {folder} is gone: it was removed, renamed or unmounted while work went on in it; "
        "put it back, then the same command goes on, or give the command again to begin anew"
    )


def refusal(folder: Path) -> str:
    """Why the folder takes no small file now; empty where it does, or is not there."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(b"\n" * _PROBE_BYTES)
    except OSError as error:
        return "" if error.errno in _GONE else why(folder, error)
    finally:
        with suppress(OSError):
            probe.unlink()
    return ""


def share(folder: Path) -> None:
    """Gives weights below the folder to whom the folder is given: safetensors 0.8 writes files that their owner alone reads, whatever the umask."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(folder.stat().st_mode & 0o666)


class Held:
    """Folders as they are when work in them begins."""

    def __init__(self, *folders: Path) -> None:
        # What is open keeps its number, so that no folder made later can pass for it.
        self._folders = {folder: os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for folder in folders}
        self.close = weakref.finalize(self, _close, self._folders)

    def check(self) -> None:
        """StorageError naming the first folder that is gone, or in whose place is another one."""
        for folder, handle in self._folders.items():
            try:
                there = os.path.samestat(os.fstat(handle), os.stat(folder))
            except OSError as error:
                there = error.errno not in _GONE  # one that does not answer may come back
            if not there:
                raise gone(folder)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(handles: dict[Path, int]) -> None:
    while handles:
        os.close(handles.popitem()[1])


class LineFile:
    """A file to which lines are added, by one process; those that cannot be written wait in memory, in order, and are written when there is room.

    Above `most_bytes` of them, the oldest stay and the others are counted in `lost`. `say` hears in a sentence when lines begin to wait and when
    they are written: once for each time that the file cannot be written, however long it lasts. The file is opened anew for every call, so
    that others see lines on any file system.
    """

    def __init__(self, path: Path, say: Callable[[str], None] | None = None, most_bytes: int = _WAITING_BYTES) -> None:
        self.path, self.lost = path, 0
        self._say, self._most_bytes = say or (lambda _: None), most_bytes
        self._waiting, self._error = bytearray(), None
        self._lock = threading.RLock()

    @property
    def waiting(self) -> str:
        """The lines that are not in the file yet."""
        return self._waiting.decode()

    def append(self, lines: str = "") -> bool:
        """Adds whole lines, or just tries those that wait; whether nothing waits any more. FileNotFoundError where the folder is gone."""
        with self._lock:
            self._keep(lines.encode())
            error = self._write()
            if error is not None and error.errno in _GONE:
                raise error
            if (error is None) == (self._error is not None):
                self._tell(error)
            return error is None

    def _keep(self, new: bytes) -> None:
        room = len(new) if self._error is None else 0 if self.lost else self._most_bytes - len(self._waiting)
        kept = new[: new.rfind(b"\n", 0, max(0, room)) + 1]
        self.lost += new.count(b"\n", len(kept))
        self._waiting += kept

    def _tell(self, error: OSError | None) -> None:
        self._error, lost = error, self.lost
        if error is not None:
            return self._say(f"{why(self.path, error)}; its lines wait in memory, up to {_size(self._most_bytes)} of them")
        self.lost = 0
        missing = f"{counted(lost, 'line is', 'lines are')} missing, as too many waited" if lost else "no line is missing"
        self._say(f"{self.path} is written again: {missing}")

    def _write(self) -> OSError | None:
        """Moves what waits into the file, as far as whole lines fit."""
        if not (data := bytes(self._waiting)):
            return None
        handle, size, done = None, 0, 0
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            size = os.fstat(handle).st_size
            while done < len(data):
                done += os.write(handle, data[done:])
            closing, handle = handle, None
            os.close(closing)  # network file systems say here that there is no room
        except OSError as error:
            whole = data.rfind(b"\n", 0, done) + 1 if handle is not None else 0
            self._cut(size, size + done, size + whole)
            del self._waiting[:whole]
            return error
        finally:
            if handle is not None:
                with suppress(OSError):
                    os.close(handle)
        self._waiting.clear()
        return None

    def _cut(self, before: int, end: int, wanted: int) -> None:
        """Takes half a line back out of the file, unless another process has added to it since."""
        with suppress(OSError):
            if before < os.stat(self.path).st_size <= end:
                os.truncate(self.path, wanted)


def cut_after(path: Path, step: int) -> None:
    """Drops the lines after `step` (it is done again), and a last one that a kill cut off."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if step_of(line) <= step]
    if kept == lines[: len(kept)] and all(line.endswith(b"\n") for line in kept):  # in place, which takes no room
        return os.truncate(path, sum(map(len, kept)))
    draft = path.with_suffix(".partial")
    draft.write_bytes(b"".join(line.rstrip(b"\n") + b"\n" for line in kept))
    os.replace(draft, path)


def step_of(line: str | bytes) -> float:
    """The step of a line of JSON; infinite where it has none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf
