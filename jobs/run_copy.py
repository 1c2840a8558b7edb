"""A run that a command is given by its address in a store, copied to this machine; a folder on a disk is what it is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path

from genlib.checkpoint import bring_newest, copy_folder, fetched, names_in, note_newest
from genlib.files import locked
from genlib.remote.store_folder import StoreFolder, checked_address, is_address
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
    try:
        files = where.files()
    except (FileNotFoundError, PermissionError) as error:
        raise ValueError(str(error)) from None
    if "manifest.json" in files or not any(name.endswith("/manifest.json") for name in files):
        return fetched(where.url), lambda: None
    folder = copy_folder(where)
    mine = RunFiles(where, folder, lambda name: True)
    with locked(folder.parent / f".{where.name}.lock"):
        mine.pull(files)
        _bring_checkpoints(where, files, folder, weights)
    return folder, mine.push


def _bring_checkpoints(where: StoreFolder, files: Collection[str], folder: Path, weights: bool) -> None:
    stages = list((read_json(folder / "run.json") or {}).get("stages", {}))
    for stage in stages if len(stages) > 1 else [""]:
        begin = f"{stage}/" if stage else ""
        there, here = (where / stage, folder / stage) if stage else (where, folder)
        of_stage = [name.removeprefix(begin) for name in files if name.startswith(begin)]
        if not weights or stage not in ("", *stages[-1:]):
            note_newest(there / "checkpoints", names_in(of_stage), here / "checkpoints")
        elif not bring_newest(there, of_stage, here):
            note_newest(there / "checkpoints", [], here / "checkpoints")
