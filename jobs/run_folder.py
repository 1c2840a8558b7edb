"""The folder of a run: where it is, who works in it, what it is of, whether it is finished.

runs/clip/
  run.json            recipe, every stage's configuration, and the command, written before training
  checkpoints/  metrics.jsonl  tensorboard/        the engine's; under runs/NAME/STAGE/ where a recipe has several stages
  metrics.json        final scores, written last: with it the run is finished
  pictures/           what it had learnt after so many steps;  timeline.jsonl: what time went to;  launches.jsonl: each start and end
  export/  *.png      what `Task.export` and `Task.assess` made; of several stages the last one's
  log/                what workers wrote to stderr;  error.log: the traceback of what stopped the run

The folder of a run in an object store is a node's own: see `jobs.run_store`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genlib.checkpoint import newest
from genlib.config import to_json
from genlib.engine.same_run import CHANGEABLE, check_same_settings, completed, differences, from_weights
from genlib.json_text import json_text
from genlib.recipe import Stage
from genlib.remote.store_folder import is_address

ANOTHER = "give another --run or --run-dir"
"""The way to a run beside the one that is there."""
_LOCKS = (".lock", ".worker_lock")
RAY_PACKAGE = "_ray_pkg_"
"""Start of the folder name under which Ray unpacks a job's working directory."""


def runs_root() -> Path:
    """Where runs live: $GENLIB_RUNS; else ./runs; but in a job, whose working directory is a copy that goes away, ~/genlib-runs."""
    if root := os.environ.get("GENLIB_RUNS"):
        check_on_disk("GENLIB_RUNS", root)
        return Path(root).absolute()
    if any(part.startswith(RAY_PACKAGE) for part in Path.cwd().parts):
        return Path.home() / "genlib-runs"
    return Path.cwd() / "runs"


def check_on_disk(option: str, folder: str) -> None:
    """ValueError for the address of a store, which those cannot use who ask for a folder."""
    if is_address(folder):
        raise ValueError(f"{option} is {folder}, which is no folder on a disk; a store can hold the runs of train alone, so name a folder here")


def run_folder(name: str, run_dir: str, default: str = "") -> Path:
    """The folder `run_dir`, or that of the run called `name`, by default `default`, among all runs.

    ValueError where both are given, or the name is no plain name.
    """
    if run_dir and name:
        raise ValueError(
            f"--run-dir {run_dir} is the folder of the run itself, so that --run {name} says nothing; "
            f"give --run-dir {Path(run_dir) / name}, or --run {name} with GENLIB_RUNS={run_dir}"
        )
    if run_dir:
        check_on_disk("--run-dir", run_dir)
        return Path(run_dir).absolute()
    name = name or default
    if name in (".", "..") or "/" in name:
        raise ValueError(f"--run {name!r} is no name; use letters, digits and dashes, or give a folder with --run-dir")
    return runs_root() / name


def stage_folder(run: Path, stages: Sequence[Stage], stage: Stage) -> Path:
    """Where a stage trains: the run's own folder where it is the only stage."""
    return run if len(stages) == 1 else run / stage.name


def set_folder(run: Path, stages: Sequence[Stage], stage: Stage) -> Path:
    """Where the driver keeps for the workers what a stage's samples are (`genlib.data.dataset_cache`)."""
    return stage_folder(run, stages, stage) / "data"


@contextmanager
def only_one(run: Path, name: str = "lock", wait_seconds: float = 0.0) -> Iterator[None]:
    """Holds the run for this process; the kernel lets go of it however the process ends.

    ValueError naming the holder where another process still has it after `wait_seconds`. A folder that was made for it, and in which
    nothing else is in the end, is deleted again.
    """
    made = [path for path in (run, *run.parents) if not path.exists()]
    run.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with open(run / f".{name}", "a+") as file:
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                file.seek(0)
                raise ValueError(f"run {run.name} is running ({file.read().strip() or 'by another process'}); wait for it, or {ANOTHER}")
            time.sleep(0.1)
        with suppress(OSError):  # a note for others, for which there may be no room
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), f"pid {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            _delete_empty(made)


def is_running(run: Path) -> bool:
    """Whether a process holds the run."""
    try:
        with open(run / ".lock", "r+") as file:
            return not _try_lock(file)
    except OSError:
        return False


def _delete_empty(made: Sequence[Path]) -> None:
    """Deletes folders, the innermost first, in which there is nothing but locks."""
    for folder in made:
        with suppress(OSError):
            if all(path.name in _LOCKS for path in folder.iterdir()):
                for lock in _LOCKS:
                    (folder / lock).unlink(missing_ok=True)
                folder.rmdir()


def _try_lock(file: Any) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # held; some systems say EACCES
        return False
    return True


def begin(run: Path, recipe: str, stages: Sequence[Stage], asked: Mapping[str, Any] | None = None) -> dict[str, float] | None:
    """Notes what the run is of, and beside that `asked`, which may change; its final metrics where it is finished already.

    ValueError naming the first setting in which the run that is there differs from this one. Where run.json is damaged, the checkpoints tell.
    """
    now = {"recipe": recipe, "stages": {stage.name: described(stage) for stage in stages}}
    noted = unsealed(read_json(run / "run.json"))
    before = noted and {name: noted[name] for name in now if name in noted}
    trained = any(run.glob("checkpoints/step_*")) or any(run.glob("*/checkpoints/step_*"))
    if trained and before is not None:
        check_unchanged_settings(run, filled(before, stages), now)
        reopen(run, stages, before, now)
        if (metrics := read_json(run / "metrics.json")) is not None:
            return metrics
    elif trained:
        for stage in stages:
            folder = stage_folder(run, stages, stage)
            if found := newest(folder / "checkpoints"):
                check_same_settings(found[1], recipe, stage, folder)
    if before != now and not trained:
        forget_scores(run, stages)
    whole = {**now, **(asked or {})}
    if noted != whole:
        write_json(run / "run.json", {**whole, "sha256": digest_of(whole)})
    return None


def reopen(run: Path, stages: Sequence[Stage], before: dict, now: dict) -> None:
    """Takes back the final scores where a run is to train longer."""
    for stage in stages:
        if before["stages"][stage.name]["train"].get("steps") != now["stages"][stage.name]["train"]["steps"]:
            (stage_folder(run, stages, stage) / "metrics.json").unlink(missing_ok=True)
            (run / "metrics.json").unlink(missing_ok=True)


def digest_of(value: dict[str, Any]) -> str:
    """sha256 of plain values, whatever their order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def unsealed(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a run is of, without its digest; None where it is not what was written."""
    if value is None or "sha256" not in value:  # there is none, or it is of before there were digests
        return value
    rest = {name: one for name, one in value.items() if name != "sha256"}
    return rest if digest_of(rest) == value["sha256"] else None


def forget_scores(run: Path, stages: Sequence[Stage]) -> None:
    """Deletes final scores of checkpoints that are not there any more, before they pass for those of other settings."""
    for folder in (run, *(stage_folder(run, stages, stage) for stage in stages)):
        (folder / "metrics.json").unlink(missing_ok=True)


def described(stage: Stage) -> dict[str, Any]:
    """A stage's configuration as plain values."""
    return {name: to_json(getattr(stage, name)) for name in ("task", "train", "data")}


def filled(before: dict, stages: Sequence[Stage]) -> dict[str, Any]:
    """What the run was of, with the defaults of settings that are newer than it."""
    known = {stage.name: stage for stage in stages}
    described = {
        name: {part: completed(getattr(known[name], part), values) for part, values in parts.items()} if name in known else parts
        for name, parts in before["stages"].items()
    }
    return {**before, "stages": described}


def check_unchanged_settings(run: Path, before: dict, now: dict) -> None:
    """ValueError naming the first setting that a run may not change."""
    advice = f"restore it, {ANOTHER}, or delete {run}"
    if before["recipe"] != now["recipe"]:
        raise ValueError(f"run {run.name} is of recipe {before['recipe']}, not {now['recipe']}; {ANOTHER}, or delete {run}")
    if before["stages"].keys() != now["stages"].keys():
        raise ValueError(f"run {run.name} has the stages {', '.join(before['stages'])}, not {', '.join(now['stages'])}; {advice}")
    for name, stage in now["stages"].items():
        for field, old, new in differences(before["stages"][name], stage):
            if field not in CHANGEABLE:
                several = len(now["stages"]) > 1
                shown, weights = (f"{name}.{field}", run / name) if several else (field, run)
                raise ValueError(f"run {run.name} was started with {shown} = {old!r}, now it is {new!r}; {advice}; {from_weights(name, weights)}")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None where there is none, or a kill left half of it."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes beside the name and renames: the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json_text(value, indent=1) + "\n")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
