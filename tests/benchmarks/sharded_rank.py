"""One rank of the row "sharded training", by whichever genlib is on the path: its memory above the bare process, and its steps.

python sharded_rank.py RANK WORLD STORE OUT LAYERS WIDTH STEPS
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genlib.config import OptimConfig, TrainConfig
from genlib.engine.zero import Zero
from genlib.task import Task
from genlib.types import Batch, Metrics, Step

ROWS = 8


class Layers(Task):
    """Matrices, one after the other; its loss is about as long as a step's messages."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(width, width), nn.GELU())))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return self.net(batch["sample"]).square().mean(1), {}


def memory_mb(name: str) -> float:
    """A line of /proc/self/status."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")) / 1000


def begin() -> None:
    """Lets the high-water mark start anew."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def trained(layers: int, width: int) -> tuple[Zero, Task, float]:
    """A task under ZeRO-3, and the resident megabytes that it took to build it."""
    before = memory_mb("VmRSS")
    strategy = Zero(3, torch.device("cpu"))
    torch.manual_seed(0)
    with getattr(strategy, "sharded_init", None) or nullcontext():
        task = Layers(layers, width)
    built = memory_mb("VmRSS") - before
    strategy.setup(task.train(), TrainConfig(strategy="zero3", optim=OptimConfig(name="adam", learning_rate=1e-4)))
    return strategy, task, built


def step_seconds(strategy: Zero, task: Task, width: int, index: int) -> float:
    """Of one step on made-up rows."""
    rows = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(dist.get_rank()))
    batch = {"sample": rows, "valid": torch.ones(ROWS, dtype=torch.bool), "weight": torch.ones(ROWS)}
    dist.barrier()
    start = time.perf_counter()
    strategy.run_phase(task.phases[0], [batch], Step(index, 1_000, 0))
    return time.perf_counter() - start


def main(rank: int, world: int, store: str, out: str, layers: int, width: int, steps: int) -> None:
    """Writes one JSON object, OUT/RANK.json."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    strategy, task, _ = trained(1, 8)  # code that is loaded once
    step_seconds(strategy, task, 8, 0)
    begin()
    bare = memory_mb("VmRSS")
    strategy, task, built = trained(layers, width)
    first = step_seconds(strategy, task, width, 0)
    peak = memory_mb("VmHWM") - bare
    others = [step_seconds(strategy, task, width, index) for index in range(1, steps)]
    facts = {
        "built_mb": built,
        "first_peak_mb": peak,
        "peak_mb": memory_mb("VmHWM") - bare,
        "step_seconds": statistics.median(others),
        "first": first,
    }
    dist.barrier()
    Path(out, f"{rank}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], *map(int, sys.argv[5:8]))
