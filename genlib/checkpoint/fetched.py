"""Copies of what an address in a store names, on this node: a run, one of its stages, a checkpoint, or an export that is sealed like one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from genlib.checkpoint.bringing import bring
from genlib.checkpoint.history import Say, to_stderr
from genlib.checkpoint.manifest import MANIFEST, step_of
from genlib.checkpoint.stored import note_newest, sealed
from genlib.files import cache_folder, locked
from genlib.remote.store_folder import StoreFolder, checked_address


def copy_folder(where: StoreFolder) -> Path:
    """Where the copy lies: beside the folder in which a run at that address works, so that it may be looked at where it trains."""
    root = cache_folder() / "fetched" / hashlib.sha256(where.url.encode()).hexdigest()[:16]
    return root / where.name if step_of(where.name) is None else root / "checkpoints" / where.name


def fetched(address: str, say: Say = to_stderr) -> Path:
    """A copy of the newest checkpoint that verifies of a run or stage, in a folder like its own; or of a checkpoint or an export.

    ValueError where there is none, OSError where the store does not answer.
    """
    where = StoreFolder(checked_address(address))
    folder = copy_folder(where)
    with locked(copy_folder(where).parent / f".{where.name}.lock"):
        files = where.files()
        if MANIFEST in files:
            bring(where, folder)
        elif not bring_newest(where, files, folder, say):
            raise ValueError(f"{where} holds no checkpoint; name the address of a run, of one of its stages, or of a checkpoint")
    return folder


def bring_newest(stage: StoreFolder, files: Collection[str], folder: Path, say: Say = to_stderr) -> bool:
    """Brings the newest checkpoint that verifies of a stage, of which the store has those files, into `folder`; whether there is any."""
    names = names_in(files)
    for name in names:
        try:
            bring(stage / "checkpoints" / name, folder / "checkpoints" / name)
        except ValueError as error:
            say(f"passing over a checkpoint that does not verify: {error}")
        else:
            note_newest(stage / "checkpoints", [name], folder / "checkpoints")
            return True
    return False


def names_in(files: Collection[str]) -> Sequence[str]:
    """The checkpoints of a stage's folder, newest first, not verified."""
    return sealed(name.removeprefix("checkpoints/") for name in files if name.startswith("checkpoints/"))
