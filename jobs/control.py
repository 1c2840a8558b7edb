"""How workers, on whatever node, are told to end, by the command that a user gave, or to begin again elsewhere, by what places them.

Each is a file that all of them see and read about once a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_GO, _STOP, _MOVE = b"go  ", b"stop", b"move"
"""As long as each other, so that one is written over another: that takes no room where a disk is full."""


def move_file(run: Path) -> Path:
    """Of a run; a trial of a search has one too."""
    return run / ".move"


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
    _say(path, _STOP)


def asked_to_stop(path: Path) -> bool:
    """Whether they are asked to."""
    return _said(path) == _STOP


def ask_to_move(run: Path) -> None:
    """Asks the run's workers to save a checkpoint and leave their places to others, who go on from it."""
    _say(move_file(run), _MOVE)


def asked_to_move(run: Path) -> bool:
    """Whether they are asked to."""
    return _said(move_file(run)) == _MOVE


def allow_to_stay(run: Path) -> None:
    """Workers that start now are where they are to be."""
    _say(move_file(run), _GO)


def _say(path: Path, word: bytes) -> None:
    with suppress(OSError):  # the disk has failed, or the run is gone: they end with the command then
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(handle, word, 0)
        finally:
            os.close(handle)


def _said(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
