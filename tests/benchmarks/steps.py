"""A multilayer perceptron on digits whose loss notes the process's CPU time, to compare a training step under any launcher."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn

from genlib import distributed
from genlib.config import DataConfig, TaskConfig, TrainConfig
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step

WIDTH, DEPTH, BATCH, STEPS, WARM = 1024, 4, 128, 160, 80


def network() -> nn.Sequential:
    """3.3 million weights, 64 -> 64."""
    sizes = [64, *[WIDTH] * DEPTH, 64]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


class Clock:
    """CPU seconds a step of this process, from marks at each loss; written for the parent after the last."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def mark(self) -> None:
        """A step begins."""
        self.marks.append(time.process_time())
        if len(self.marks) == STEPS and (folder := os.environ.get("BENCH_OUT")):
            seconds = (self.marks[-1] - self.marks[WARM]) / (STEPS - 1 - WARM)
            Path(folder, f"{distributed.rank()}.json").write_text(json.dumps(seconds))


class Timed(Task):
    """Reconstructs its input."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.clock = network(), Clock()

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        self.clock.mark()
        image = batch["image"]
        return (self.net(image) - image.flatten(1)).square().mean(1), {}


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedConfig(TaskConfig):
    """No settings."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Timed:
        return Timed()


def recipe() -> Recipe:
    """For benchmarks alone."""
    train = TrainConfig(steps=STEPS, global_batch=BATCH, checkpoint_every_steps=0, trackers=(), log_every_seconds=5)
    stages = (Stage(task=TimedConfig(), data=DataConfig(train="digits"), train=train),)
    return Recipe(stages=stages, smoke=stages)


if __name__ == "__main__":
    import sys

    from genlib import registry
    from jobs import train
    from jobs.exit_codes import exit_code

    registry.RECIPES["steps"] = "tests.benchmarks.steps:recipe"
    sys.exit(exit_code(lambda: train.main(["steps", *sys.argv[1:]])))
