"""The checkpoints of one run: which there are, which is the newest whole one, and which are no longer needed.

A folder counts by the exact form of its name, `step_` and at least eight digits; every other one is somebody else's and left alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from genlib import distributed
from genlib.checkpoint.manifest import MANIFEST, Manifest, OtherFormat, step_of, verify

Say = Callable[[str], None]
Signature = tuple[tuple[str, int, int, int, int], ...]


def to_stderr(text: str) -> None:
    """Prints a line of trouble."""
    print(text, file=sys.stderr, flush=True)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders in `folder`, newest first, not verified."""
    found = [(step, path) for path in folder.glob("step_*") if (step := step_of(path.name)) is not None and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def newest(folder: Path, say: Say = to_stderr) -> tuple[Path, Manifest] | None:
    """The newest checkpoint that verifies, or None; says which newer ones do not and why. Changes nothing."""
    for path in checkpoints(folder):
        try:
            return path, verify(path)
        except ValueError as error:
            say(f"passing over a checkpoint that does not verify: {error}")
    return None


def find(folder: Path) -> Path | None:
    """The checkpoint that a user means by a checkpoint's own folder or by that of a run or stage; None where it is neither."""
    if (folder / MANIFEST).is_file():
        return folder
    found = newest(folder / "checkpoints")
    return found[0] if found else None


def set_aside(path: Path, why: str, say: Say = to_stderr) -> None:
    """Renames a folder that is no checkpoint of this run's, so that no run finds it again and nothing in it is lost."""
    number, target = 1, path.with_name(f"damaged_{path.name}")
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"damaged_{path.name}.{number}")
    try:
        os.rename(path, target)
    except OSError as error:
        say(f"{path} cannot be set aside ({error.strerror}): {why}")
    else:
        say(f"{path.name} is set aside as {target.name}, to be looked at or deleted: {why}")


def remove(path: Path) -> None:
    """Deletes a checkpoint; a kill in between leaves no half of one under its name."""
    partial = path.with_name(f".{path.name}.removed.partial")  # a save's own may be there, of the checkpoint that comes next
    clear(partial)
    os.rename(path, partial)
    clear(partial)


def clear(partial: Path) -> None:
    """Deletes what is left of a save, if it can be; of a link the link alone, as what it leads to may be another run's."""
    if partial.is_symlink():
        partial.unlink()
    shutil.rmtree(partial, ignore_errors=True)


class History:
    """The checkpoints of a run for the one process that writes them; `ours` tells a checkpoint of this run from another's by its manifest."""

    def __init__(self, folder: Path, ours: Callable[[Manifest], bool], say: Say = to_stderr) -> None:
        self.folder, self.ours, self.say = folder, ours, say
        self.verified: dict[Path, tuple[Signature, Manifest]] = {}
        """What verified here, and how its files looked then: large files are hashed once."""

    def newest(self) -> tuple[Path, Manifest] | None:
        """The newest checkpoint that verifies, or None; newer ones that do not are set aside. ValueError for one that a later genlib wrote."""
        for path in checkpoints(self.folder):
            try:
                manifest = self._verified(path)
            except OtherFormat as error:
                raise ValueError(f"{error}; go on with the version that wrote it, or use another run name") from None
            if manifest:
                return path, manifest
        return None

    def agreed(self) -> tuple[Path, Manifest] | None:
        """That on every rank; all ranks call it together. One looks, as that renames, and all must begin from the same one."""
        return distributed.broadcast_object(self.newest() if distributed.rank() == 0 else None)

    def whole(self, checkpoint: Path) -> Path:
        """A checkpoint that was saved, where every rank sees all its files."""
        return checkpoint

    def prune(self, keep: int, saved: Path, manifest: Manifest) -> None:
        """Deletes all but the newest `keep` of this run's whole checkpoints, never the one just saved, and what killed saves left.

        Others are set aside where they are damaged and stay where they are another run's.
        """
        self.verified[saved] = _signature(saved), manifest  # hashed when it was written
        whole = [path for path in checkpoints(self.folder) if self._is_ours(path)]
        for path in whole[keep:]:
            if path != saved:
                remove(path)
                self.verified.pop(path, None)
        for path in self.folder.glob(".step_*.partial"):
            clear(path)

    def cut_off(self) -> list[int]:
        """Steps of the saves that a kill or a full disk left unfinished."""
        names = (path.name.removeprefix(".").removesuffix(".partial") for path in self.folder.glob(".step_*.partial"))
        return sorted(step for name in names if (step := step_of(name)) is not None)

    def _is_ours(self, path: Path) -> bool:
        try:
            manifest = self._verified(path)
        except OtherFormat:
            return False
        return manifest is not None and self.ours(manifest)

    def _verified(self, path: Path) -> Manifest | None:
        try:
            signature = _signature(path)
            known = self.verified.get(path)
            manifest = known[1] if known and known[0] == signature else verify(path)
        except OtherFormat:
            raise
        except (OSError, ValueError) as error:
            set_aside(path, str(error), self.say)
            return None
        self.verified[path] = signature, manifest
        return manifest


def _signature(path: Path) -> Signature:
    """Of every entry below: name, size, inode, and when its bytes and its facts changed last; of a link those of what it leads to."""
    entries = [(str(entry.relative_to(path)), entry.stat()) for entry in path.rglob("*")]
    return tuple(sorted((name, one.st_size, one.st_ino, one.st_mtime_ns, one.st_ctime_ns) for name, one in entries))
