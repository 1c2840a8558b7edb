"""Pictures of what a run has learnt so far, always of the same seeds, prompts or samples: `pictures/step_00001000.png`.

Rank 0 draws them while the others wait, with a task of its own that is given the weights as a checkpoint would have them: their average
where there is one. So neither weights nor random numbers of the run can be touched, whatever the strategy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from genlib import companions, distributed
from genlib.checkpoint import Blueprint, step_name, step_of
from genlib.config import TrainConfig
from genlib.storage import why
from genlib.task import Task
from genlib.types import DataSource

PICTURES = "pictures"
"""Folder in that of the stage."""
_PARTS, _SHARE, _FIRST_SECONDS, _MOST_FAILED = 20, 0.05, 20.0, 3
"""Left to itself: steps between them as a share of the run's, drawing's share of the time, and the training before the first one.
How often in a row they may fail before no more are tried."""


class RunPictures:
    """Those of one run, on every rank."""

    def __init__(self, folder: Path, task: Task, blueprint: Blueprint, source: DataSource, config: TrainConfig, device: torch.device) -> None:
        self.folder, self.blueprint, self.source, self.device = folder / PICTURES, blueprint, source, device
        every = config.pictures_every_steps
        self.any, self.chosen = bool(task.companions.sheet) and every != 0, every > 0
        self.every = every if self.chosen else max(1, config.steps // _PARTS)
        self.began, self.spent, self.last, self.failed = time.perf_counter(), 0.0, 0.0, 0

    def due(self, done: int) -> bool:
        """Whether one is to be drawn after so many steps, on all ranks the same."""
        if not self.any or done % self.every:
            return False
        return distributed.broadcast_object(self.failed < _MOST_FAILED and (self.chosen or self._affordable()))

    def _affordable(self) -> bool:
        trained = time.perf_counter() - self.began - self.spent
        return trained >= _FIRST_SECONDS and self.spent + self.last <= _SHARE * trained

    def draw(self, done: int, state: Mapping[str, Tensor]) -> Path | None:
        """Draws with the weights of that state dict, on rank 0; None where nothing came of it, which is said when it first is so."""
        begin, path = time.perf_counter(), self.folder / f"{step_name(done)}.png"
        try:
            drawn = self._drawn(state, path)
        except Exception as error:  # whatever a family or its libraries raise: the run is worth more than its picture
            self._fail(done, path, error)
            drawn = None
        else:
            self.failed = 0
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.last = time.perf_counter() - begin
        self.spent += self.last
        return drawn

    def _drawn(self, state: Mapping[str, Tensor], path: Path) -> Path | None:
        self.folder.mkdir(exist_ok=True)  # without parents: the folder of a run that was removed is not made again
        partial = path.with_name(".partial.png")
        partial.unlink(missing_ok=True)
        devices = [self.device] if self.device.type == "cuda" else []
        with distributed.alone(), torch.random.fork_rng(devices), torch.no_grad():
            task = self.blueprint.build()
            task.load_state_dict(state)
            companions.sheet(task.to(self.device).eval(), self.source, partial)
        if not partial.exists():
            return None
        os.replace(partial, path)
        return path

    def _fail(self, done: int, path: Path, error: Exception) -> None:
        self.failed += 1
        said = why(path, error) if isinstance(error, OSError) else f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if self.failed == 1:
            print(f"step {done}: no picture is drawn ({said}); training goes on", flush=True)
        elif self.failed == _MOST_FAILED:
            print(f"step {done}: no picture was drawn {_MOST_FAILED} times in a row; no more are tried until the run starts again", flush=True)


def drop_after(folder: Path, step: int) -> None:
    """Deletes pictures after that step, as its rows are: they are drawn again."""
    for path, at in pictures(folder):
        if at > step:
            path.unlink(missing_ok=True)


def pictures(folder: Path) -> list[tuple[Path, int]]:
    """Pictures of the run that trains in the folder, and their steps, in order."""
    found = [(path, step_of(path.stem)) for path in (folder / PICTURES).glob("step_*.png")]
    return sorted(((path, step) for path, step in found if step is not None), key=lambda one: one[1])
