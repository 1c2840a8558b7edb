"""The checkpoints of a run in an object store: the same files under the same names as on a disk, which ranks write into folders of their nodes.

A checkpoint is there when its manifest is, which comes last and goes first. Of a node's folder nothing is relied on: it has what this node wrote or
fetched, and what it lacks of a checkpoint is fetched before that is used.

    FOLDER/step_00012000/         whole here
    FOLDER/.step_00012000.kept/   what this node wrote of one that several nodes wrote
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from genlib import distributed
from genlib.checkpoint.bringing import bring, fetch_manifest, kept
from genlib.checkpoint.history import Say, checkpoints, clear, to_stderr
from genlib.checkpoint.manifest import DIGEST, MANIFEST, Manifest, OtherFormat, read_manifest, step_of
from genlib.checkpoint.place import Place, place_of
from genlib.remote.store_folder import StoreFolder, some_at_once


class Mirror:
    """Where a run's checkpoints are kept beside the folder in which they are written.

    store: the folder of the run's stage in a store, in which `checkpoints/` is as on a disk; beside: called on rank 0 before a checkpoint counts,
    to bring up what belongs to it.
    """

    def __init__(self, store: StoreFolder, beside: Callable[[], None] = lambda: None) -> None:
        self.store, self.beside = store / "checkpoints", beside


class StoredHistory:
    """As `History`, of a store; every rank has one."""

    def __init__(self, mirror: Mirror, folder: Path, ours: Callable[[Manifest], bool], say: Say = to_stderr) -> None:
        self.mirror, self.store, self.folder, self.ours, self.say = mirror, mirror.store, folder, ours, say
        self.place: Place = place_of(folder)
        self._known: dict[str, Manifest] = {}
        self._left: list[str] = []

    def agreed(self) -> tuple[Path, Manifest] | None:
        """The newest checkpoint that verifies, whole at each place, or None; newer ones that do not are set aside. All ranks call it together.

        ValueError for one that a later genlib wrote; OSError where the store does not answer.
        """
        for name in self._of_rank_0():
            damage = self._brought(name)
            if not damage:
                return self.folder / name, read_manifest(self.folder / name)
            if not distributed.rank():
                self._set_aside(name, damage)
        return None

    def whole(self, checkpoint: Path) -> Path:
        """A checkpoint that was saved, with all its files at each place. All ranks call it together."""
        if not self.place.whole and (damage := self._brought(checkpoint.name)):
            raise OSError(f"the checkpoint was damaged since it was written: {damage}")
        return checkpoint

    def cut_off(self) -> list[int]:
        """Steps of the saves that a kill or a fault had left unfinished when rank 0 looked for the newest checkpoint."""
        return sorted(step for name in self._left if (step := step_of(name)) is not None)

    def begin(self, name: str) -> None:
        """Makes room for a checkpoint: what is there under its name is none any more."""
        self._remove(name)

    def upload(self, partial: Path, name: str, files: list[str]) -> None:
        """Brings up files of the checkpoint `name` that lie in `partial`."""
        some_at_once(lambda file: (self.store / name).upload(partial / file, file), files)

    def seal(self, partial: Path, name: str) -> None:
        """Makes it a checkpoint, whose other files are there on all sides."""
        self.mirror.beside()
        for file in (DIGEST, MANIFEST):
            (self.store / name).upload(partial / file, file)

    def keep_here(self, partial: Path, final: Path) -> None:
        """After the seal, at each place: what was written is kept for whoever goes on here, and nothing older."""
        for path in self.folder.glob(".step_*.kept"):
            clear(path)
        for path in checkpoints(self.folder):
            clear(path)
        os.rename(partial, final if self.place.whole else kept(final))

    def prune(self, keep: int, saved: Path, manifest: Manifest) -> None:
        """Deletes all but the newest `keep` of this run's checkpoints in the store, never the one just saved, and what killed saves left."""
        self._known[saved.name] = manifest
        whole, left = self._names()
        mine = [name for name in whole if self._is_ours(name)]
        for name in (*mine[keep:], *left):
            if name != saved.name:
                self._remove(name)

    def _names(self) -> tuple[list[str], list[str]]:
        """Checkpoints in the store, newest first, not verified; and what is left of others."""
        files = self.store.files()
        names = {name for name in (file.partition("/")[0] for file in files) if step_of(name) is not None}
        whole = sealed(files)
        return whole, sorted(names.difference(whole))

    def _of_rank_0(self) -> list[str]:
        """The checkpoints that rank 0 finds in the store, on every rank; OSError on every rank where it does not answer."""
        found: list[str] | str = []
        if not distributed.rank():
            try:
                found, self._left = self._names()
            except OSError as error:
                found = str(error)
        found = distributed.broadcast_object(found)
        if isinstance(found, str):
            raise OSError(found)
        return found

    def _brought(self, name: str) -> str:
        """Empty, or what is wrong with a checkpoint that one rank at each place has tried to bring there; on every rank the same."""
        kind, said = "", ""
        if self.place.lead:
            try:
                bring(self.store / name, self.folder / name)
            except OtherFormat as error:
                kind, said = "format", str(error)
            except ValueError as error:
                kind, said = "damage", str(error)
            except OSError as error:
                kind, said = "store", str(error)
        kind, said = next((one for one in distributed.all_gather_object((kind, said)) if one[0]), ("", ""))
        if kind == "format":
            raise ValueError(f"{said}; go on with the version that wrote it, or use another run name")
        if kind == "store":
            raise OSError(said)
        return said

    def _set_aside(self, name: str, why: str) -> None:
        """Gives a checkpoint's manifest and then its other files other names, so that no run finds it again and nothing in it is lost."""
        aside = f"damaged_{name}"
        try:
            files = [file for file in self.store.files() if file.startswith(f"{name}/")]
            for file in sorted(files, key=lambda file: file != f"{name}/{MANIFEST}"):
                self.store.move(file, f"{aside}/{file.partition('/')[2]}")
        except OSError as error:
            self.say(f"{self.store / name} cannot be set aside ({error}): {why}")
        else:
            self.say(f"{name} is set aside as {aside}, to be looked at or deleted: {why}")

    def _remove(self, name: str) -> None:
        """Its manifest first: a kill in between leaves no half of one."""
        self._known.pop(name, None)
        files = list((self.store / name).files())
        for some in ([MANIFEST] if MANIFEST in files else []), [file for file in files if file != MANIFEST]:
            (self.store / name).delete(some)

    def _is_ours(self, name: str) -> bool:
        if name not in self._known:
            try:
                self._known[name] = _manifest_of(self.store / name, self.folder / f".{name}.manifest.partial")
            except ValueError:
                return False
        return self.ours(self._known[name])


def sealed(files: Iterable[str]) -> list[str]:
    """Names of the checkpoints among the files of a folder of checkpoints in a store, newest first, not verified."""
    found = [(step, name) for name, _, file in (path.partition("/") for path in files) if file == MANIFEST and (step := step_of(name)) is not None]
    return [name for _, name in sorted(found, reverse=True)]


def note_newest(store: StoreFolder, names: Sequence[str], folder: Path) -> None:
    """Makes `folder` tell, as one of checkpoints on a disk does, that the newest of `names` is there: by its manifest, if nothing else."""
    for path in checkpoints(folder):
        if path.name not in names[:1]:
            clear(path)
    if names:
        with suppress(ValueError):  # one for a worker to set aside
            (folder / names[0]).mkdir(parents=True, exist_ok=True)
            fetch_manifest(store / names[0], folder / names[0])


def _manifest_of(store: StoreFolder, draft: Path) -> Manifest:
    """Of a checkpoint in a store, by way of an empty folder. ValueError where it is none."""
    clear(draft)
    draft.mkdir(parents=True)
    try:
        return fetch_manifest(store, draft)
    finally:
        clear(draft)
