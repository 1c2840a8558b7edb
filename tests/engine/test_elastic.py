"""A run killed three times while its world goes 2, 1, 4, 3: each sample of every epoch counts once, told by the weights themselves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genlib import checkpoint
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step
from tests.data.shards import write_set
from tests.processes import run_ranks

SAMPLES, BATCH, EPOCHS = 320, 32, 4  # 32 is divisible by 2, 1 and 4, but not by 3
STEPS = SAMPLES * EPOCHS // BATCH
WORLDS = (2, 1, 4, 3)


class Counting(Task):
    """Adds 1 to the weight of every sample that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(SAMPLES, 1, bias=False)
        nn.init.zeros_(self.net.weight)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        time.sleep(0.05)  # so that there is a step to kill
        return -self.net.weight[0, batch["label"]], {}


@dataclass(frozen=True, kw_only=True, slots=True)
class CountingConfig(TaskConfig):
    """No settings."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Counting:
        return Counting()


def run(folder: Path, strategy: str, readers: int) -> None:
    """The whole run or what is left of it; in every rank."""
    optim = OptimConfig(name="sgd", learning_rate=float(BATCH))  # the loss is a mean: its gradient is 1 / BATCH for each sample
    train = TrainConfig(steps=STEPS, global_batch=BATCH, strategy=strategy, checkpoint_every_steps=3, trackers=(), optim=optim)
    data = DataConfig(train=str(folder / "set"), readers=readers)
    stage = Stage(task=CountingConfig(), train=train, data=data)
    fit(stage, recipe="counting", source=open_source(data), folder=folder / "run", device=torch.device("cpu"))


def newest(folder: Path) -> int:
    """Steps of the newest checkpoint."""
    return max((int(path.name.split("_")[1]) for path in checkpoint.checkpoints(folder / "run" / "checkpoints")), default=0)


def killed(folder: Path, world: int, strategy: str, readers: int, steps: int) -> None:
    """Lets `world` ranks train until a checkpoint of at least so many steps lies there, then kills them all with SIGKILL."""
    command = [sys.executable, "-m", "tests.engine.test_elastic", str(folder), str(world), strategy, str(readers)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while newest(folder) < steps:
        assert process.poll() is None, f"ended by itself with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.3))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "readers"), [("auto", 0), ("zero2", 2)])
def test_every_sample_counts_once_through_kills_and_changes_of_the_world(tmp_path: Path, strategy: str, readers: int) -> None:
    write_set(tmp_path / "set", SAMPLES, per_shard=37)
    for number, world in enumerate(WORLDS[:-1], 1):
        killed(tmp_path, world, strategy, readers, number * STEPS // 4)
    run_ranks(WORLDS[-1], run, tmp_path, strategy, readers)
    seen = checkpoint.load_weights(tmp_path / "run" / "checkpoints" / checkpoint.step_name(STEPS))["net.weight"][0]
    assert torch.allclose(seen, torch.full((SAMPLES,), float(EPOCHS)), atol=1e-3)


if __name__ == "__main__":
    from tests.engine import test_elastic  # the task's module has a name by which a checkpoint can name it

    run_ranks(int(sys.argv[2]), test_elastic.run, Path(sys.argv[1]), sys.argv[3], int(sys.argv[4]))
