"""The held-out samples, each once, and the means of a task's own `evaluate` over them: where the final scores of most families begin."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch

from genlib.encoded_batch import encoded
from genlib.task import Task
from genlib.types import Batch, DataSource, Transform

BATCH = 500
"""Samples of one batch."""


def held_out(
    task: Task, source: DataSource, transform: Transform | None = None, *, size: int | None = None, most: int | None = None
) -> Iterator[Batch]:
    """Held-out samples that count, each once, in batches of at most `size` (by default `BATCH`) on the task's device.

    By the task's own transform or another; `most` of them, a multiple of `size`, or all.
    """
    transform = transform or task.transform(train=False)
    size = size or BATCH
    batches = source.batches("validation", size, transform=transform)
    for batch in islice(batches, None if most is None else most // size):
        valid = batch["valid"]
        yield {name: value[valid].to(task.device) for name, value in batch.items()}


@torch.no_grad()
def mean_values(task: Task, source: DataSource) -> dict[str, float]:
    """Each value of `evaluate`, its mean over all held-out samples, under the name that `assess` gives it; nothing where there are none.

    A value of a whole batch counts as often as the batch has samples.
    """
    totals: dict[str, float] = {}
    count = 0
    for batch in held_out(task, source):
        rows = len(batch["position"])
        count += rows
        for name, value in task.evaluate(encoded(task, batch)).items():
            totals[name] = totals.get(name, 0.0) + (value.double().sum().item() if value.dim() else rows * value.item())
    return {f"{source.spec.validation_name}/{name}": total / count for name, total in totals.items()}
