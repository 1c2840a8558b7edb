"""CLIP's step in micro-batches, whose loss is that of the whole batch, against as many steps of one micro-batch each; one thread.

Both see the same samples, as many at once. What comes twice is the forward pass of all micro-batches but one: where a backward pass is
twice a forward pass, k micro-batches take 1 + (1 - 1 / k) / 3 of the time; an optimizer's step for each of the others is saved.

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

ROUNDS, ACCUMULATION = 5, 4


def transformers() -> tuple[CLIP, Batch]:
    """Both towers transformers, 32 pairs a micro-batch."""
    image, tokens = pairs()
    return made(), {"image": image[:32], "tokens": tokens[:32]}


def tiny() -> tuple[CLIP, Batch]:
    """What `clip_tiny` trains, a residual image tower and a text transformer, 64 pairs a micro-batch."""
    (stage,) = registry.load("clip_tiny").stages
    assert isinstance(stage.task, CLIPConfig)
    source = open_source(stage.data)
    torch.manual_seed(0)
    task = stage.task.build(source.spec, {})
    task.prepare(source)
    return task, next(source.batches("train", 64, transform=task.transform(train=True)))


def run(task: CLIP, batch: Batch, precision: str, accumulation: int) -> Callable[[], object]:
    """So many times the batch, in steps of so many micro-batches."""
    strategy, size = SingleDevice(torch.device("cpu")), len(batch["image"])
    strategy.setup(task.train(), TrainConfig(precision=precision, accumulation=accumulation, global_batch=accumulation * size, optim=OptimConfig()))
    whole = {**batch, "position": torch.arange(size), "valid": torch.ones(size, dtype=torch.bool), "weight": torch.ones(size)}
    parts = [{**whole, "position": whole["position"] + number * size} for number in range(accumulation)]
    steps = ACCUMULATION // accumulation
    return lambda: [strategy.run_phase(task.phases[0], parts, Step(0, 10)) for _ in range(steps)]


def main() -> None:
    torch.set_num_threads(1)
    for name, both in (("transformers", transformers), ("clip_tiny", tiny)):
        for precision in ("fp32", "bf16"):
            split, single = run(*both(), precision, ACCUMULATION), run(*both(), precision, 1)
            report(f"CLIP, {name}, {precision}, {ACCUMULATION} micro-batches a step over one", ratios(split, single, ROUNDS), must=1.4)


if __name__ == "__main__":
    main()
