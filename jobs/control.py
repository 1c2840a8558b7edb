"""How the command that a user gave tells its workers, on whatever node, to end: a file that all of them see and read about once a second."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_GO, _STOP = b"go  ", b"stop"
"""As long as each other, so that the second is written over the first: that takes no room where a disk is full."""


class Stopped(Exception):
    """The command was asked to end; whoever asked says what is kept."""


def control_file(run: Path) -> Path:
    """Of a run, or of a search and all its trials."""
    return run / ".control"


@contextmanager
def control(run: Path) -> Iterator[Path]:
    """Inside, the file is there; it is made before it says anything, as a network file system hides a new file longer than new contents."""
    path = control_file(run)
    path.write_bytes(_GO)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def ask_to_stop(path: Path) -> None:
    """Asks workers to save a checkpoint and end."""
    with suppress(OSError):  # the disk has failed, or the run is gone: they end with the command then
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(handle, _STOP, 0)
        finally:
            os.close(handle)


def asked_to_stop(path: Path) -> bool:
    """Whether they are asked to."""
    try:
        return path.read_bytes() == _STOP
    except OSError:
        return False
