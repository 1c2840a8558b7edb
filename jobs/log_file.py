"""The run's log for people: workers write lines into a file in the run's folder, the driver follows it to the terminal.

Ray's own way to a terminal would mix in what every Ray process has to say.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.2


def log_path(run: Path) -> Path:
    """The log of a run, over all its restarts."""
    return run / "log.txt"


class LogFile(io.TextIOBase):
    """A stream that opens, appends and closes for every line, so that others see it on any file system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pending = ""
        self.lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self.lock:
            lines, newline, self.pending = (self.pending + text).rpartition("\n")
            if newline:
                with open(self.path, "a") as file:
                    file.write(lines + newline)
        return len(text)


@contextmanager
def followed(path: Path) -> Iterator[None]:
    """Inside, what is appended to the file is printed."""
    path.touch()
    done = threading.Event()
    with open(path) as file:
        file.seek(0, io.SEEK_END)
        thread = threading.Thread(target=_follow, args=(file, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _follow(file: io.TextIOBase, done: threading.Event) -> None:
    last = False
    while not last:
        last = done.wait(POLL_SECONDS)  # one more look after the end
        if text := file.read():
            print(text, end="", flush=True)
