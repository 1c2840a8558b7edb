"""What tests of energy models train on, and how, without an engine."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from genlib.data.transforms.vectors import VectorShape
from genlib.models.energy.rbm import RBM, RBMConfig
from genlib.task import Task, weighted_mean
from genlib.types import Batch, Step


@cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits (N, 64) in [0, 1] and their classes (N,), in a fixed shuffled order."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return torch.tensor(x / 16, dtype=torch.float32)[order], torch.tensor(y)[order]


def bars_and_stripes(side: int = 4) -> Tensor:
    """All pictures of whole rows, or of whole columns, each once: (2 * 2**side - 2, side * side)."""
    lines = torch.arange(2**side)[:, None] >> torch.arange(side) & 1
    rows = lines[:, :, None].expand(-1, -1, side).flatten(1)
    columns = lines[:, None, :].expand(-1, side, -1).flatten(1)
    return torch.cat([rows, columns]).unique(dim=0).float()


def batch_of(x: Tensor, label: Tensor, step: int, size: int, seed: int) -> Batch:
    """`size` samples drawn at random, all if there are no more."""
    draws = torch.Generator().manual_seed(seed * 100_003 + step)
    rows = torch.randperm(len(x), generator=draws)[:size]
    return {"x": x[rows], "label": label[rows], "position": torch.arange(len(rows)) + step * len(rows), "weight": torch.ones(len(rows))}


def train(
    task: Task, optimizer: torch.optim.Optimizer, x: Tensor, label: Tensor | None = None, *, steps: int, size: int = 100, seed: int = 0
) -> Task:
    """So many steps, the learning rate falling to 0 on a line."""
    label = torch.zeros(len(x), dtype=torch.int64) if label is None else label
    rate = optimizer.param_groups[0]["lr"]
    task.train()
    for index in range(steps):
        batch, step = batch_of(x, label, index, size, seed), Step(index, steps, seed)
        batch |= task.encode(batch)
        optimizer.param_groups[0]["lr"] = rate * (1 - index / steps)
        optimizer.zero_grad()
        weighted_mean(task.loss("train", batch, step)[0], batch).backward()
        optimizer.step()
        with torch.no_grad():
            task.after_step(step)
    return task.eval()


def trained_rbm(config: RBMConfig, x: Tensor, *, steps: int, learning_rate: float, momentum: float = 0.5, size: int = 100, seed: int = 0) -> RBM:
    """An RBM of vectors, its visible biases at the log-odds of their means."""
    torch.manual_seed(seed)
    task = RBM(config, VectorShape((x.shape[1],)))
    start(task, x)
    train(task, torch.optim.SGD(task.net.parameters(), learning_rate, momentum=momentum), x, steps=steps, size=size, seed=seed)
    return task


def start(task: RBM, x: Tensor) -> None:
    """As `prepare`, from samples in memory."""
    task.measure(x)
    task.first_chains()
