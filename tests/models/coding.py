"""Autoencoders of all kinds on samples in memory: what their tests train and measure with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.models.autoencoders.base.coding import CodingConfig, CodingTask
from genlib.models.variational.base.factors import FactorTransform
from genlib.types import Batch, DataSpec, Step

T = TypeVar("T", bound=CodingTask)


@dataclass(frozen=True)
class Samples:
    """x (N, D), labels (N,), and of shapes the factors (N, 5): kind, colour, x, y, size."""

    spec: DataSpec
    x: Tensor
    labels: Tensor
    factors: Tensor

    def only(self, keep: Tensor) -> Samples:
        return replace(self, x=self.x[keep], labels=self.labels[keep], factors=self.factors[keep])


@cache
def samples(name: str, split: str = "train", size: int = 0) -> Samples:
    """All samples of a built-in set."""
    source = open_source(DataConfig(train=name, image_size=size))
    shape, names = VectorShape.of(source.spec), ("kind", "color", "x", "y", "size") if name == "shapes" else ()
    transform, found = FactorTransform(shape, names) if names else VectorTransform(shape), []
    batches = source.batches(split, 512, transform=transform)
    for batch in islice(batches, -(-source.spec.num_samples // 512)) if split == "train" else batches:
        found.append({key: value[batch["valid"]] for key, value in batch.items()})
    once = slice(source.spec.num_samples if split == "train" else None)
    x, labels = (torch.cat([batch[key] for batch in found])[once] for key in ("x", "label"))
    factors = torch.cat([batch.get("factors", torch.zeros(len(batch["x"]), 0)) for batch in found])[once]
    return Samples(source.spec, x, labels, factors)


def trained(
    config: CodingConfig, x: Tensor, spec: DataSpec, *, steps: int, learning_rate: float = 2e-3, batch: int = 128, seed: int = 0
) -> CodingTask:
    """The task after so many steps of Adam on a cosine, in eval mode."""
    torch.manual_seed(seed)
    task = config.build(spec, {})
    optimizer = torch.optim.Adam(task.parameters(), learning_rate, fused=True)
    order = torch.randperm(len(x))
    for step in range(steps):
        position = torch.arange(step * batch, (step + 1) * batch)
        optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        task.loss("train", {"x": x[order[position % len(x)]], "position": position}, Step(step, steps, seed))[0].mean().backward()
        optimizer.step()
    return task.eval()


@torch.no_grad()
def values(task: CodingTask, x: Tensor) -> dict[str, float]:
    """The mean of each value of `evaluate` over samples."""
    batch: Batch = {"x": x, "position": torch.arange(len(x)), "valid": torch.ones(len(x), dtype=torch.bool)}
    return {name: value.mean().item() for name, value in task.evaluate(batch).items()}
