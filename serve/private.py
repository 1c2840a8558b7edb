"""Files and folders that their owner alone can read, whatever the umask, and whatever they were before."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import IO, Any

FILE, FOLDER = 0o600, 0o700


def make_folder(path: Path) -> None:
    """Makes a folder, or tightens the one that is there."""
    try:
        path.mkdir(mode=FOLDER, parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise
        tighten(path)
    else:
        path.chmod(FOLDER)


def open_file(path: Path, mode: str) -> IO[Any]:
    """Opens a file, made where there is none."""
    file = open(path, mode, opener=lambda name, flags: os.open(name, flags, FILE))  # noqa: SIM115
    with contextlib.suppress(PermissionError):  # it is another user's
        os.fchmod(file.fileno(), FILE)
    return file


def tighten(path: Path) -> bool:
    """Takes a file or a folder away from all but its owner; whether it was not so. What a link leads to, or another user has, stays as it is."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or not mode & 0o077:
            return False
        path.chmod(FOLDER if stat.S_ISDIR(mode) else FILE)
    except OSError:
        return False
    return True
