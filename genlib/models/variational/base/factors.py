"""What varies in a set, as its samples' `.json` members tell it, beside the samples themselves."""

from __future__ import annotations

import zlib

import torch

from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.types import Batch, Samples


class FactorTransform(VectorTransform):
    """As the plain one, and `factors` (B, F) float64: numbers as they are, words each by a number of its own."""

    def __init__(self, shape: VectorShape, names: tuple[str, ...]) -> None:
        super().__init__(shape)
        self.names = names

    def __call__(self, samples: Samples) -> Batch:
        facts = samples.fields.get("json", [{}] * len(samples.keys))
        rows = [[_number(one, name, key) for name in self.names] for one, key in zip(facts, samples.keys, strict=True)]
        return {**super().__call__(samples), "factors": torch.tensor(rows, dtype=torch.float64)}


def _number(facts: dict, name: str, key: str) -> float:
    value = facts.get(name)
    if isinstance(value, str):
        return float(zlib.crc32(value.encode()))
    if isinstance(value, int | float):
        return float(value)
    raise ValueError(
        f"task.factors names {name!r}, but sample {key} has no such number or word in a .json member; it has {', '.join(facts) or 'none'}"
    )
