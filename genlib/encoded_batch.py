"""What a task's frozen networks make of a batch, rounded to float16 here and nowhere else: in training, in evaluation, and where it is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from genlib.task import Task
from genlib.types import Batch

ROW_FACTS = ("position", "sample", "valid", "weight")
"""What a batch says of its rows, whatever is made of the samples."""
_LARGEST_HALF = torch.finfo(torch.float16).max


@torch.no_grad()
def encode(task: Task, batch: Batch) -> Batch:
    """What the task's `encode` makes of the batch, as it may be kept: floating-point values rounded to the nearest of float16, in plain
    memory order."""
    return {name: _rounded(value) for name, value in task.encode(batch).items()}


def _rounded(value: Tensor) -> Tensor:
    # Convolutions give latents with channels last; what reads those adds up in another order than what reads them from a file.
    return (value.clamp(-_LARGEST_HALF, _LARGEST_HALF).half() if value.is_floating_point() else value).contiguous()


def encoded(task: Task, batch: Batch) -> Batch:
    """The batch as `loss` and `evaluate` get it, in training and wherever a task is judged.

    Where the task encodes, that is what it makes of the samples, rounded once to float16 and then in float32, and what every batch says of
    its rows; else the batch itself.
    """
    if not task.encodes:
        return batch
    facts = {name: batch[name] for name in ROW_FACTS if name in batch}
    return {**widened(encode(task, batch)), **facts}


def widened(batch: Batch) -> Batch:
    """Values that `encode` gave, which may have been kept meanwhile, in float32 again."""
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in batch.items()}
