"""A run that a command is given by its address in a store, copied to this machine; a folder on a disk is what it is.

Beside the copy in which a launch works (`jobs.run_store`), so that a run may be looked at where it trains.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from genlib.checkpoint import bring, note_newest, sealed, step_of
from genlib.files import cache_folder, locked
from genlib.remote.store_folder import StoredFile, StoreFolder, checked_address, is_address
from jobs.run_files import RunFiles
from jobs.run_folder import read_json

Named = Path | StoreFolder
"""A run, one of its stages, a checkpoint or an export: in a folder, or at an address."""


def run_argument(text: str) -> Named:
    """What a word of a command line names, as a type of argparse."""
    try:
        return StoreFolder(checked_address(text)) if is_address(text) else Path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def at_hand(where: Named, weights: bool = True) -> Path:
    """The folder, or a copy of what lies at the address, see `copied`."""
    return copied(where, weights)[0]


def copied(where: Named, weights: bool = True) -> tuple[Path, Callable[[], object]]:
    """The folder, or a copy of what lies at the address; and what brings up the files that have changed there since.

    Of a run it has the newest checkpoint of the last stage that verifies, or without `weights` that one's manifest alone. ValueError where
    nothing of the kind is there, OSError where the store does not answer.
    """
    if isinstance(where, Path):
        return where, lambda: None
    root = cache_folder() / "fetched" / hashlib.sha256(where.url.encode()).hexdigest()[:16]
    folder = root / where.name if step_of(where.name) is None else root / "checkpoints" / where.name
    with locked(root / ".lock"):
        files = _files(where)
        if "manifest.json" in files:
            bring(where, folder)
            return folder, lambda: None
        mine = RunFiles(where, folder, lambda name: True)
        folder.mkdir(parents=True, exist_ok=True)
        mine.pull(files)
        _bring_checkpoints(where, files, folder, weights)
    return folder, mine.push


def _files(where: StoreFolder) -> Mapping[str, StoredFile]:
    try:
        files = where.files()
    except (FileNotFoundError, PermissionError) as error:
        raise ValueError(str(error)) from None
    if not any(name == "manifest.json" or name.endswith("/manifest.json") for name in files):
        raise ValueError(f"{where} holds no checkpoint; name the address of a run, of one of its stages, or of a checkpoint")
    return files


def _bring_checkpoints(where: StoreFolder, files: Mapping[str, StoredFile], folder: Path, weights: bool) -> None:
    stages = list((read_json(folder / "run.json") or {}).get("stages", {}))
    stages = stages if len(stages) > 1 else [""]
    for stage in stages:
        begin = f"{stage}/checkpoints/".lstrip("/")
        names = sealed(name.removeprefix(begin) for name in files if name.startswith(begin))
        if weights and stage == stages[-1]:
            names = _first_whole(where / begin.rstrip("/"), names, folder / begin)
        note_newest(where / begin.rstrip("/"), names, folder / begin)


def _first_whole(store: StoreFolder, names: Sequence[str], folder: Path) -> list[str]:
    """The newest checkpoint that verifies, if any does."""
    for name in names:
        try:
            bring(store / name, folder / name)
        except ValueError as error:
            print(f"passing over a checkpoint that does not verify: {error}", file=sys.stderr, flush=True)
        else:
            return [name]
    return []
