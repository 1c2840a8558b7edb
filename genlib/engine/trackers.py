"""accelerate's trackers (TensorBoard, W&B, MLflow) beside a run, which none of them can end: metrics.jsonl has all that they are told."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from genlib.plurals import counted
from genlib.storage import file_system, lacks_room

_REST_SECONDS = 30.0
"""How long one that failed is left alone."""
_PICTURE = "pictures"
_TAKE_PICTURES = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}
"""Those that take pictures, and what accelerate is to pass on with them."""
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "PMI_", "OMPI_COMM_", "MV2_COMM_")
"""How variables begin in which torchrun and MPI tell of other processes."""
_MOST_WAITING = 10_000
"""Lines that wait for one that fails; then the oldest go."""


def check_trackers_installed(names: tuple[str, ...]) -> None:
    """ValueError naming the first tracker whose package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"train.trackers has {name}, but that package is not installed; `pip install {name}`, or leave it out")


@contextmanager
def launchers_forgotten() -> Iterator[None]:
    """Inside, the environment says nothing of other processes where this one is in no group: accelerate would wait for them, and what a launcher
    or a scheduler has left there is not of this run."""
    names = [] if dist.is_initialized() else [name for name in os.environ if name.startswith(_LAUNCHERS)]
    left = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(left)


class Trackers:
    """Those of a run, on rank 0, started with the first row."""

    def __init__(self, names: tuple[str, ...], folder: Path, run: str, config: dict, first_step: int) -> None:
        from accelerate.state import PartialState

        with launchers_forgotten():
            PartialState(cpu=not torch.cuda.is_available())
        hush_writers()
        self.trackers = [Tracker(name, folder, run, config, first_step) for name in names]

    def log(self, row: Mapping[str, Any], room: bool = True) -> None:
        """One row, under its step; where the run's folder has no room now, what writes there waits."""
        values = {name: value for name, value in row.items() if name != "step" and value is not None}
        for tracker in self.trackers:
            tracker.log(row["step"], values, room)

    def picture(self, step: int, path: Path) -> None:
        """A picture of that step, to those that take pictures."""
        for tracker in self.trackers:
            if tracker.name in _TAKE_PICTURES:
                tracker.log(step, {_PICTURE: path}, True)

    def close(self) -> None:
        """Writes what is left."""
        for tracker in self.trackers:
            tracker.close()


class Tracker:
    """One of them. What it does not take waits, and is told again later; what fails is said once for each time that it fails."""

    def __init__(self, name: str, folder: Path, run: str, config: dict, first_step: int) -> None:
        self.name, self.folder, self.run, self.config = name, folder, run, config
        self.waiting: deque[tuple[int, dict]] = deque(maxlen=_MOST_WAITING)
        self.tracker, self.failing, self.lost, self.rest_until = None, False, 0, 0.0
        try:
            self.tracker = self._started(first_step)
        except OSError as error:
            self._fail(error)

    def _started(self, first_step: int) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if self.name != "tensorboard":
            tracker = LOGGER_TYPE_TO_CLASS[self.name](self.run)
            tracker.start()
            tracker.store_init_configuration(self.config)
            return tracker
        # Rows after the checkpoint are written again: TensorBoard hides the old ones from this step on.
        tracker = LOGGER_TYPE_TO_CLASS[self.name](".", logging_dir=str(self.folder / "tensorboard"), purge_step=first_step)
        tracker.start()
        return tracker

    def log(self, step: int, values: dict, room: bool) -> None:
        """Values of a step."""
        self.lost += len(self.waiting) == _MOST_WAITING
        self.waiting.append((step, values))
        if time.monotonic() >= self.rest_until and (room or self.name != "tensorboard"):
            self._send()

    def close(self) -> None:
        """Writes what is left, if it can be."""
        if self.waiting:
            self._send()
        try:
            if self.tracker is not None:
                self.tracker.finish()
        except Exception as error:
            self._fail(error)

    def _send(self) -> None:
        try:
            self.tracker = self.tracker or self._started(self.waiting[0][0])
            while self.waiting:
                step, values = self.waiting[0]
                self._tell(self.tracker, step, values)
                self.waiting.popleft()
        except Exception as error:  # of any package
            return self._fail(error)
        if self.failing:
            print(f"tracker {self.name} goes on: {counted(self.lost, 'line is', 'lines are') if self.lost else 'no line is'} missing", flush=True)
        self.failing, self.lost = False, 0

    def _tell(self, tracker: Any, step: int, values: dict) -> None:
        if (path := values.get(_PICTURE)) is None:
            return tracker.log(values, step=step)
        if path.exists():
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))[None]
            tracker.log_images({_PICTURE: pixels}, step=step, **_TAKE_PICTURES[self.name])

    def _fail(self, error: Exception) -> None:
        self.rest_until = time.monotonic() + _REST_SECONDS
        if self.name == "tensorboard":
            self.tracker = None  # a writer whose thread has died takes nothing any more
        if not self.failing:
            place = f"; {file_system(self.folder)}" if lacks_room(error) else ""
            print(f"tracker {self.name} takes nothing ({type(error).__name__}: {error}){place}; training goes on, its lines wait", flush=True)
        self.failing = True


def hush_writers() -> None:
    """TensorBoard's writers tell their errors at the next call; the traceback of their threads says no more."""
    before = threading.excepthook
    if before.__module__ == __name__:
        return

    def hook(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    threading.excepthook = hook
