"""Frozen networks inside a task that trains: earlier stages that encode its samples, teachers, the base of a refiner."""

from __future__ import annotations

import torch

from genlib.inference import is_low
from genlib.task import Task
from genlib.upstream import every_upstream


def lower(task: Task) -> None:
    """Keeps layers of the task's upstream tasks in bf16 from now on, of those whose outputs allow it; checkpoints have them so too.

    Embeddings and normalisation stay fp32, and with them the sums between layers.
    """
    for one in every_upstream(task):
        if one.frozen_precision == "bf16" and not one.kept_in_bf16:
            one.kept_in_bf16 = True
            for module in filter(is_low, one.modules()):
                module.to(torch.bfloat16)
