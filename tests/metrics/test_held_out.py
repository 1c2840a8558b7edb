"""Scores of the held-out samples: all of them, once, and in the mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genlib.config import DataConfig
from genlib.data.source import open_source
from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.metrics.held_out import held_out, mean_values
from genlib.task import Task
from genlib.types import Batch, Metrics


class Summing(Task):
    """A task whose values are known."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def transform(self, train: bool) -> VectorTransform:
        return VectorTransform(VectorShape((1, 8, 8)))

    def encode(self, batch: Batch) -> Batch:
        return {"code": batch["x"].sum(1)}

    def evaluate(self, batch: Batch) -> Metrics:
        return {"sum": batch["code"], "samples": torch.tensor(float(len(batch["code"])))}


def test_values_are_means_over_samples_and_those_of_batches_count_by_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlib.metrics.held_out.BATCH", 100)
    source, task = open_source(DataConfig(train="digits", image_size=8)), Summing()
    batches = list(held_out(task, source))
    x: Tensor = torch.cat([batch["x"] for batch in batches])
    sizes = [len(batch["x"]) for batch in batches]
    assert torch.cat([batch["position"] for batch in batches]).tolist() == list(range(len(x)))
    assert len(sizes) > 1
    scores = mean_values(task, source)
    assert scores[f"{source.spec.validation_name}/sum"] == pytest.approx(x.sum(1).half().double().mean().item(), rel=1e-5)
    assert scores[f"{source.spec.validation_name}/samples"] == pytest.approx(sum(size**2 for size in sizes) / sum(sizes))
    assert max(sizes) == 100 > min(sizes)
