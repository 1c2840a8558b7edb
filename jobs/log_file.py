"""The run's log for people: workers write lines into a file in the run's folder, the driver follows it to the terminal.

Ray's own way to a terminal would mix in what every Ray process has to say.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genlib.storage import LineFile, refusal

POLL_SECONDS = 0.2
_SILENCE_SECONDS = 5.0
"""After which the driver looks whether lines could be written at all."""
_WAITING_BYTES = 1 << 20


def log_path(run: Path) -> Path:
    """The log of a run, over all its restarts."""
    return run / "log.txt"


class LineStream(io.TextIOBase):
    """A stream that hands whole lines to a function; no print fails where that raises OSError."""

    def __init__(self, append: Callable[[str], object]) -> None:
        self.append, self.pending = append, ""
        self.lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self.lock:
            lines, newline, self.pending = (self.pending + text).rpartition("\n")
            if newline:
                with suppress(OSError):  # the folder is gone, which those say who cannot do without it
                    self.append(lines + newline)
        return len(text)


class LogFile(LineStream):
    """A stream of lines to the end of a file. What cannot be written waits, up to a mebibyte."""

    def __init__(self, path: Path) -> None:
        self.file = LineFile(path, most_bytes=_WAITING_BYTES)
        super().__init__(self.file.append)


@contextmanager
def followed(path: Path) -> Iterator[None]:
    """Inside, what is appended to the file is printed; and why nothing is, where its folder cannot be written."""
    path.touch()
    done = threading.Event()
    with open(path, errors="replace") as file:
        file.seek(0, io.SEEK_END)
        thread = threading.Thread(target=_follow, args=(file, path.parent, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _follow(file: io.TextIOBase, folder: Path, done: threading.Event) -> None:
    last, problem, heard = False, "", time.monotonic()
    while not last:
        last = done.wait(POLL_SECONDS)  # one more look after the end
        if text := file.read():
            problem, heard = "", time.monotonic()
            _show(text)
        elif time.monotonic() - heard > _SILENCE_SECONDS:
            before, problem, heard = problem, refusal(folder), time.monotonic()
            if problem and not before:
                _show(f"{problem}; the run goes on, and its lines wait until there is room\n")


def _show(text: str) -> None:
    with suppress(OSError):  # a terminal that is gone, or a full disk behind it, ends no run
        print(text, end="", flush=True)
