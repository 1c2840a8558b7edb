"""The files of a run in a store beside its checkpoints: brought up by the process that writes them, and down before work begins.

    run.json  launches.jsonl  log.txt  error.log  data/    the driver's
    metrics.jsonl  metrics.json  timeline.jsonl  pictures/  tensorboard/  export/  ...    of rank 0

The store is the truth: what a folder has of another time, or of a run that is not in the store any more, is deleted there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from genlib.remote.store_folder import StoredFile, StoreFolder, some_at_once

Chooses = Callable[[str], bool]
"""Whether a file, by its path in the run's folder, is meant."""
_DRIVERS = ("run.json", "launches.jsonl", "log.txt", "error.log")
_NEVER = ("checkpoint_manager_snapshot.json",)
_LATER = ("export", "best")
"""Folders with weights, which no launch reads: they go up alone."""

Signature = tuple[int, int, int]


def _is_kept(name: str) -> bool:
    """Whether it is one of these files at all: no checkpoint, lock, draft or the like."""
    parts = name.split("/")
    hidden = any(part.startswith(".") for part in parts) or name.endswith(".partial")
    return not hidden and "checkpoints" not in parts[:2] and name not in _NEVER


def of_data(name: str) -> bool:
    """Whether it says what a stage's samples are."""
    return _is_kept(name) and "data" in name.split("/")[:-1][:2]


def of_driver(name: str) -> bool:
    """Whether the driver writes it."""
    return name in _DRIVERS or of_data(name)


def of_rank_0(name: str) -> bool:
    """Whether rank 0 writes it; `log/` has each worker's own."""
    return _is_kept(name) and not of_driver(name) and (not name.startswith("log/") or name == "log/worker_00000.txt")


class RunFiles:
    """The files that `mine` chooses, in a run's folder and in a store; several threads may use one."""

    def __init__(self, store: StoreFolder, run: Path, mine: Chooses) -> None:
        self.store, self.run, self.mine = store, run, mine
        self._seen: dict[str, Signature] = {}
        self._lock = threading.Lock()

    def pull(self, files: Mapping[str, StoredFile] | None = None, also: Chooses = lambda name: False) -> None:
        """Makes the run's folder have what the store has, of what is mine and of what `also` chooses. OSError where it cannot.

        files: what is in the store, where that is known.
        """
        files = self.store.files() if files is None else files
        with self._lock:
            chosen = {name: one for name, one in files.items() if not _is_later(name) and _is_kept(name) and (self.mine(name) or also(name))}
            for name in self._here():
                if (self.mine(name) or also(name)) and not _is_later(name) and name not in chosen:
                    (self.run / name).unlink(missing_ok=True)
            some_at_once(lambda item: self._fetch(*item), chosen.items())

    def fetch(self, name: str) -> None:
        """One file, if the store has it."""
        if (found := self.store.files().get(name)) is not None:
            self._fetch(name, found)

    def push(self, only: Chooses = lambda name: True) -> list[str]:
        """Brings up what of mine was changed here since the last time, final scores last, and deletes what is no more; what it brought."""
        with self._lock:
            here = {name: _signature(self.run / name) for name in self._here() if self.mine(name) and only(name)}
            changed = [name for name, one in here.items() if one is not None and one != self._seen.get(name)]
            changed.sort(key=lambda name: (name.endswith("metrics.json"), -name.count("/"), name))
            some_at_once(lambda name: self._bring_up(name, here[name]), [name for name in changed if not name.endswith("metrics.json")])
            for name in changed:
                if name.endswith("metrics.json"):
                    self._bring_up(name, here[name])
            gone = [name for name in self._seen if name not in here and self.mine(name) and only(name)]
            self.store.delete(gone)
            for name in gone:
                del self._seen[name]
            return changed

    def _bring_up(self, name: str, signature: Signature | None) -> None:
        try:
            self.store.upload(self.run / name, name)
        except FileNotFoundError:
            if (self.run / name).exists():
                raise
            return
        self._seen[name] = signature or (0, 0, 0)

    def _here(self) -> list[str]:
        names = []
        for folder, below, files in os.walk(self.run):
            below[:] = [name for name in below if name != "checkpoints" and not name.startswith(".")]
            names += [str((Path(folder) / name).relative_to(self.run)) for name in files]
        return sorted(filter(_is_kept, names))

    def _fetch(self, name: str, one: StoredFile) -> None:
        path = self.run / name
        if not _is_that(path, one):
            self._download(name, one, path)
        self._seen[name] = _signature(path) or (0, 0, 0)

    def _download(self, name: str, one: StoredFile, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.fetch")
        self.store.download(name, draft)
        os.utime(draft, (one.modified.timestamp(), one.modified.timestamp()))  # when a run was last heard of is read there
        os.replace(draft, path)


def _is_later(name: str) -> bool:
    return any(part in _LATER for part in name.split("/")[:2])


def _is_that(path: Path, one: StoredFile) -> bool:
    """Whether the file was fetched before and neither has changed since."""
    found = _signature(path)
    return found is not None and found[0] == one.size and abs(found[1] / 1e9 - one.modified.timestamp()) < 1e-3


def _signature(path: Path) -> Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
