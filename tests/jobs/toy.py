"""A recipe that trains in seconds, on digits: an autoencoder of two layers, with what a test needs to disturb it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from genlib.companions import Companions
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig, limited
from genlib.distributed import mean_over_ranks
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSource, DataSpec, Metrics, Step

FAULT_STEP = 30


class Toy(Task):
    companions = Companions(assess="tests.jobs.toy:assess", export="tests.jobs.toy:export")

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, config.hidden), nn.Tanh(), nn.Dropout(config.dropout), nn.Linear(config.hidden, 64))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        time.sleep(self.config.seconds_per_step)
        if self.config.fault == "memory" and step.index == FAULT_STEP:
            torch.empty(2**60, dtype=torch.uint8)
        wrong = float("nan") if self.config.fault == "nan" and step.index == FAULT_STEP else 1.0
        return self.errors(batch["image"]) * wrong, {}

    def evaluate(self, batch: Batch) -> Metrics:
        return {name: value * float("nan") if self.config.fault == "scoreless" else value for name, value in super().evaluate(batch).items()}

    def errors(self, image: Tensor) -> Tensor:
        return (self.net(image) - image.flatten(1)).square().mean(1)


def assess(task: Toy, source: DataSource, folder: Path) -> dict[str, float]:
    batch = next(iter(source.batches("validation", 64)))
    # as scores of families do: where the first of several workers takes them, it must not wait for the others
    return {"digits/mse": mean_over_ranks(task.errors(batch["image"]).mean()).item()}


def export(task: Toy, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("a toy\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyConfig(TaskConfig):
    hidden: int = limited(8, at_least=1)
    """Hidden units."""
    dropout: float = 0.1
    """Of hidden units; the ranks draw, so that another number of them learns something else."""
    seconds_per_step: float = 0.0
    """Sleep in every step."""
    fault: Literal["", "value", "runtime", "scoreless", "nan", "memory"] = ""
    """What building the task raises; `scoreless` makes its scores NaN, and the last two befall one step."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Toy:
        if self.fault == "value":
            raise ValueError("hidden units of this kind do not exist; use others")
        if self.fault == "runtime":
            raise RuntimeError("something broke")
        return Toy(self)


def stage(name: str = "train", **needs: str) -> Stage:
    train = TrainConfig(
        steps=60, global_batch=32, checkpoint_every_steps=10, log_every_seconds=0.5, ema_halflife_samples=500, trackers=(),
        optim=OptimConfig(learning_rate=1e-2, schedule="cosine", warmup_steps=5),
    )  # fmt: skip
    return Stage(name=name, task=ToyConfig(), data=DataConfig(train="digits"), train=train, needs=needs)


def toy() -> Recipe:
    """An autoencoder of digits.

    For tests alone.
    """
    return Recipe(stages=(stage(),), smoke=(stage(),))


def chain() -> Recipe:
    """Two autoencoders, one after the other."""
    stages = (stage("first"), stage("second", base="first"))
    return Recipe(stages=stages, smoke=stages)
