"""One trial of a search, in an actor that goes through many: trains the stage with the values it is given and tells Ray Tune how it does.

A trial's folder is that of a run, and the truth: a trial that is started again goes on from its newest checkpoint, and one that was
finished says again what it reached.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from genlib.engine.stop import Interrupted
from genlib.json_text import json_text
from genlib.recipe import Stage
from genlib.storage import Held, gone, lacks_room, stopped
from jobs.control import Stopped, asked_to_stop, control_file
from jobs.evaluations import Evaluations, evaluations
from jobs.log_file import LogFile
from jobs.run_folder import read_json, write_json

NUMBER = "trial"
"""Beside a trial's values: which trial of the search it is."""
_TRAINING = ".training"
POINTER = "trial.json"
"""In what Ray Tune keeps as a trial's checkpoint: which trial's folder holds it."""


@dataclass(frozen=True, slots=True)
class Trials:
    """What every trial of a search has in common."""

    recipe: str
    stage: Stage
    """With the settings that are not searched."""
    run: Path
    """The search's folder."""
    kept: Path
    """Where the driver keeps what the samples are."""
    upstream: Mapping[str, Path]
    """Final checkpoints of the stages it needs, by role."""
    metric: str
    workers: int
    each: Mapping[str, float]
    """What one worker reserves."""
    exploits: bool
    """Whether trials take over each other's weights."""

    def folder(self, values: Mapping[str, Any]) -> Path:
        """The folder of the trial with this number among its values."""
        return self.run / "trials" / f"T{values[NUMBER]}"

    @property
    def control(self) -> Path:
        """Where trials hear that the search is to end."""
        return control_file(self.run)

    def marked(self) -> list[Path]:
        """Marks of trials that train now."""
        return list(self.run.glob(f"trials/*/{_TRAINING}"))

    def forget_marks(self) -> None:
        """Deletes what a search that was killed left."""
        for mark in self.marked():
            mark.unlink(missing_ok=True)


def run_trial(values: Mapping[str, Any], *, trials: Trials) -> None:
    """Ray Tune's training function."""
    folder = trials.folder(values)
    values = {name: value for name, value in values.items() if name != NUMBER}
    if not (trials.run / "search.json").exists():  # nothing may look like a search that is not one
        raise gone(trials.run)
    folder.mkdir(parents=True, exist_ok=True)
    if refused := read_json(folder / "refused.json"):  # what would happen again is not tried again
        raise ValueError(refused["why"])
    wait_if_stopped(trials)
    with said_to(folder / "log.txt"), kept_in(folder), marked(folder):
        note(folder, values)
        try:
            train(values, trials, folder)
        except (Interrupted, Stopped):
            pass
        except (ArithmeticError, ValueError) as error:
            with contextlib.suppress(OSError):
                write_json(folder / "refused.json", {"why": str(error)})
            raise
    wait_if_stopped(trials)


def wait_if_stopped(trials: Trials) -> None:
    """Does not return where the search is to end: to Ray Tune a trial that returns has reached its end."""
    while asked_to_stop(trials.control):
        time.sleep(1)


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Inside, what fails because the trial's folder is gone, or has no room, is a StorageError."""
    with Held(folder) as held:
        try:
            yield
        except Exception as error:
            held.check()
            if lacks_room(error):
                raise stopped(error, folder) from None
            raise


@contextlib.contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Inside, the trial trains: a search that is to end waits for it."""
    mark = folder / _TRAINING
    with contextlib.suppress(OSError):  # no room for it now
        mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def train(values: Mapping[str, Any], trials: Trials, folder: Path) -> None:
    """Trains to the end, reporting on the way."""
    from tune_spaces.base import with_values

    stage = with_values(trials.stage, values)
    if stage.train.pictures_every_steps < 0:  # a search's time is for training, if nothing else is said
        stage = replace(stage, train=replace(stage.train, pictures_every_steps=0))
    if trials.exploits:
        take_over(stage, folder)
    before = evaluations(folder)
    if trials.workers > 1:
        return train_with_workers(stage, trials, folder)
    final_step = fit_here(stage, trials, folder)
    if before and before[-1]["step"] >= final_step:  # it was finished before: nothing was reported on the way
        report({**before[-1], "trouble": ""}, None)


def fit_here(stage: Stage, trials: Trials, folder: Path) -> int:
    """Trains in this process; the last step."""
    import torch

    from genlib import checkpoint
    from genlib.engine.fit import fit

    torch.set_num_threads(max(1, int(trials.each.get("CPU", 1))))
    device = torch.device("cuda" if trials.each.get("GPU") else "cpu")
    source = source_of(stage.data, trials.kept, stage.task.fields)
    final = fit(
        stage, recipe=trials.recipe, source=source, folder=folder, device=device, upstream=trials.upstream,
        listener=listener(folder, trials),
    )  # fmt: skip
    return checkpoint.read_manifest(final).step


@lru_cache(maxsize=2)
def source_of(data: Any, kept: Path, needs: tuple[str, ...]) -> Any:
    """The samples, opened once for all trials of this actor: they share its index and its memory of what was decoded."""
    from genlib.data.source import open_source

    return open_source(data, kept, needs=needs)


def listener(trial: Path, trials: Trials) -> Any:
    """Tells Ray Tune, and the trial's folder, of every evaluation once its checkpoint is whole."""
    from genlib.engine.listener import Evaluated, Listener

    class ToTune(Listener):
        """What it told is in the trial's folder too."""

        reached = Evaluations(trial)

        def on_checkpoint(self, folder: Path, row: Mapping[str, Any], evaluated: Evaluated | None) -> None:
            if evaluated and evaluated.step == row["step"]:
                values = {**evaluated.values, "step": evaluated.step, "trouble": evaluated.trouble}
                self.reached.add(values)
                report(values, folder if trials.exploits else None)

        def stop_asked(self) -> bool:
            return asked_to_stop(trials.control)

    return ToTune()


def report(values: Mapping[str, Any], checkpoint: Path | None) -> None:
    """To Ray Tune, with a pointer to the checkpoint where others may take it over; does not return where the trial is to stop."""
    from ray import tune

    if checkpoint is None:
        return tune.report(dict(values))
    with tempfile.TemporaryDirectory() as pointer:
        (Path(pointer) / POINTER).write_text(json_text({"checkpoint": str(checkpoint)}))
        tune.report(dict(values), checkpoint=tune.Checkpoint.from_directory(pointer))


def take_over(stage: Stage, folder: Path) -> None:
    """Where Ray Tune says to go on from another trial's checkpoint, makes it this one's own, once."""
    from ray import tune

    from genlib import checkpoint

    given = tune.get_checkpoint()
    if given is None:
        return
    with given.as_directory() as pointer:
        donor = Path(json.loads((Path(pointer) / POINTER).read_text())["checkpoint"])
    taken = read_json(folder / "taken.json") or {"from": []}
    if donor.is_relative_to(folder) or str(donor) in taken["from"]:
        return
    source = donor if donor.is_dir() else newest(donor.parent)  # it may have gone on meanwhile
    inherited = checkpoint.inherit(source, folder / "checkpoints", stage.task, stage.train)
    step = checkpoint.read_manifest(inherited).step
    write_json(folder / "taken.json", {"from": [*taken["from"], str(donor)], "at": step})


def newest(folder: Path) -> Path:
    """The newest whole checkpoint in the folder."""
    from genlib import checkpoint

    found = checkpoint.newest(folder)
    if found is None:
        raise ValueError(f"{folder} holds no checkpoint to go on from")
    return found[0]


def train_with_workers(stage: Stage, trials: Trials, folder: Path) -> None:
    """Trains through Ray Train, whose controller passes the workers' reports on to Ray Tune."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from jobs.train import fit_on_ray
    from jobs.worker import WorkerJob

    class ToTune(TuneReportCallback):
        """Writes down in the trial's folder what is passed on."""

        reached = Evaluations(folder)

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            self.reached.add(metrics[0])
            super().after_report(run_context, metrics, checkpoint)

    work = WorkerJob(trials.recipe, (replace(stage, needs={}),), folder, secrets.token_hex(8), trials.control, upstream=trials.upstream, scores=False)
    fit_on_ray(work, workers=(trials.workers, trials.workers), each=dict(trials.each), retries=1, callbacks=[ToTune()])


def note(folder: Path, values: Mapping[str, Any]) -> None:
    """Writes down what the trial is of, in whichever process it is."""
    known = read_json(folder / "trial.json") or {"started": time.time(), "actors": []}
    write_json(folder / "trial.json", {**known, "values": dict(values), "actors": [*known["actors"], os.getpid()]})


@contextlib.contextmanager
def said_to(path: Path) -> Iterator[None]:
    """Inside, what is printed goes to the end of the file."""
    file = LogFile(path)
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield
