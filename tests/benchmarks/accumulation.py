"""A step of CLIP in micro-batches, whose loss is that of the whole batch, against the same step without accumulation; one thread.

The work that there is twice is the forward pass of all micro-batches but one: with a backward pass of twice the operations of a
forward pass, accumulation k takes 1 + (1 - 1 / k) / 3 of the time.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.accumulation
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from genlib import registry
from genlib.config import OptimConfig, TrainConfig
from genlib.data.source import open_source
from genlib.engine.single import SingleDevice
from genlib.models.representation.clip import CLIP, CLIPConfig
from genlib.types import Batch, Step
from tests.benchmarks.clip_step import made, pairs
from tests.benchmarks.measure import ratios, report

ROUNDS = 9


def transformers() -> tuple[CLIP, Batch]:
    """Both towers transformers, 64 pairs."""
    image, tokens = pairs()
    return made(), {"image": image, "tokens": tokens}


def tiny() -> tuple[CLIP, Batch]:
    """What `clip_tiny` trains, a residual image tower and a text transformer, 128 pairs."""
    (stage,) = registry.load("clip_tiny").stages
    assert isinstance(stage.task, CLIPConfig)
    source = open_source(stage.data)
    torch.manual_seed(0)
    task = stage.task.build(source.spec, {})
    task.prepare(source)
    return task, next(source.batches("train", 128, transform=task.transform(train=True)))


def step(task: CLIP, batch: Batch, precision: str, accumulation: int) -> Callable[[], object]:
    """A step over the batch in so many micro-batches."""
    strategy = SingleDevice(torch.device("cpu"))
    strategy.setup(task.train(), TrainConfig(precision=precision, accumulation=accumulation, optim=OptimConfig(learning_rate=1e-4)))
    size = len(batch["image"])
    whole = {**batch, "position": torch.arange(size), "valid": torch.ones(size, dtype=torch.bool), "weight": torch.ones(size)}
    parts = [{name: value[start : start + size // accumulation] for name, value in whole.items()} for start in range(0, size, size // accumulation)]
    return lambda: strategy.run_phase(task.phases[0], parts, Step(0, 10))


def main() -> None:
    torch.set_num_threads(1)
    for name, both in (("transformers", transformers), ("clip_tiny", tiny)):
        for precision, accumulation in (("fp32", 2), ("fp32", 4), ("fp32", 8), ("bf16", 4)):
            split, whole = step(*both(), precision, accumulation), step(*both(), precision, 1)
            report(f"CLIP step, {name}, {precision}, accumulation {accumulation} over 1", ratios(split, whole, ROUNDS), must=1.4)


if __name__ == "__main__":
    main()
