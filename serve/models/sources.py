"""Which checkpoints are served, and under which names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genlib import checkpoint
from genlib.remote.store_folder import StoreFolder, checked_address, is_address
from jobs.run_copy import at_hand


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a served model comes from."""

    name: str
    """What requests call it."""
    folder: str
    """A run's or a stage's, of which the newest whole checkpoint is served, or a checkpoint's own, or that of an export like one; or its address
    in a store."""

    def checkpoints(self) -> list[Path]:
        """The checkpoints there, newest first, not yet verified; of a store the newest alone, brought to this node. ValueError where it is away."""
        folder = _brought(self.folder) if is_address(self.folder) else Path(self.folder)
        return [folder] if (folder / "manifest.json").is_file() else checkpoint.checkpoints(folder / "checkpoints")

    def newest(self) -> Path | None:
        """The newest of them; None where there is none."""
        return next(iter(self.checkpoints()), None)


def model_sources(given: Sequence[str], runs: Path) -> tuple[ModelSource, ...]:
    """What a user names as FOLDER or NAME=FOLDER; every finished run below `runs` where nothing is named.

    ValueError where a folder holds no checkpoint or two have the same name.
    """
    found = [_source(one) for one in given] if given else [_source(str(folder)) for folder in finished(runs)]
    if not found:
        raise ValueError(f"there is no finished run in {runs} to serve; train one, such as by `make clip`, or name a checkpoint's folder")
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two checkpoints are called {twice}; name one of them otherwise, as in other={found[names.index(twice)].folder}")
    return tuple(found)


def finished(runs: Path) -> list[Path]:
    """Folders of finished runs, and of the best trials of finished searches."""
    folders = [folder / "best" if (folder / "best").is_dir() else folder for folder in sorted(runs.glob("*"))]
    return [folder for folder in folders if (folder / "metrics.json").is_file()]


def _source(given: str) -> ModelSource:
    name, equals, path = given.partition("=")
    where = path if equals else given
    folder = Path(where).absolute()
    if not equals:
        parts = [part for part in folder.parts if not re.fullmatch(r"step_\d+|checkpoints|best|export|/", part)]
        name = parts[-1] if parts else ""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ValueError(f"{name!r} is no name for a model; write letters, digits, dots and dashes, as in mine={folder}")
    source = ModelSource(name, checked_address(where) if is_address(where) else str(_last_stage(folder)))
    if source.newest() is None:
        raise ValueError(
            f"{where if is_address(where) else folder} holds no checkpoint; name the folder of a run, of one of its stages, or of a checkpoint"
        )
    return source


def _brought(address: str) -> Path:
    try:
        return _last_stage(at_hand(StoreFolder(address)))
    except OSError as error:
        raise ValueError(str(error)) from None


def _last_stage(run: Path) -> Path:
    """The folder of a run's last stage; the run's own where it has but one."""
    try:
        stages = list(json.loads((run / "run.json").read_text())["stages"])
    except (OSError, ValueError, KeyError):
        return run
    return run / stages[-1] if len(stages) > 1 else run
