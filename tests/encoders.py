"""A frozen convolution and a network that learns on what it sees: the smallest task that encodes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from genlib import random
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig, limited
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSource, DataSpec, Metrics, Step


class Eyes(Task):
    """A convolution that tells digits apart by their mean brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Tanh())

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return (self.net(batch["image"]).mean((1, 2, 3)) - batch["image"].mean((1, 2, 3))).square(), {}


class OnEyes(Task):
    """Denoises what the eyes see."""

    def __init__(self, eyes: Task, config: OnEyesConfig) -> None:
        super().__init__({"eyes": eyes})
        self.config = config
        self.net = nn.Sequential(nn.Linear(64 + 1, 16), nn.Tanh(), nn.Dropout(config.dropout), nn.Linear(16, 64))
        self.register_buffer("scale", torch.ones(()))

    @property
    def eyes(self) -> Task:
        return self.upstream["eyes"]

    def prepare(self, source: DataSource) -> None:
        batch = next(iter(source.batches("train", 64)))
        self.scale.copy_(1 / self.encode({name: batch[name] for name in ("image", "label")})["code"].std())

    @torch.no_grad()
    def encode(self, batch: Batch) -> Batch:
        note_call(self.config.calls, batch)
        code = self.eyes.net(batch["image"]) * self.scale
        for _ in range(self.config.repeats):
            code = self.eyes.net(batch["image"].repeat(1, 1, 8, 8))[:, :, :4, :4] * self.scale
        return {"code": code, "label": batch["label"]}

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        assert set(batch) <= {"code", "label", "position", "sample", "valid", "weight"}
        assert batch["code"].dtype == torch.float32
        code = batch["code"].flatten(1)
        noise = random.normal(batch["position"], (64,), seed=step.seed, stream="noise")
        error = (self.net(torch.cat([code + noise, batch["label"][:, None] / 10], 1)) - code).square().mean(1)
        return error, {"error": error}

    def evaluate(self, batch: Batch) -> Metrics:
        return {"code": batch["code"].square().mean((1, 2, 3))}


def note_call(folder: str, batch: Batch) -> None:
    """Notes which samples were encoded, where a test wants to know."""
    if folder and "sample" in batch:
        text = " ".join(map(str, batch["sample"].tolist()))
        (Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:16]).write_text(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class EyesConfig(TaskConfig):
    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Eyes:
        return Eyes()


@dataclass(frozen=True, kw_only=True, slots=True)
class OnEyesConfig(TaskConfig):
    roles: ClassVar[tuple[str, ...]] = ("eyes",)

    calls: str = ""
    """Folder in which calls of `encode` are noted."""
    repeats: int = limited(0, at_least=0)
    """How often an encoding is made again from a larger picture, so that it takes long."""
    dropout: float = limited(0.1, at_least=0, below=1)
    """Share of hidden units left out."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> OnEyes:
        return OnEyes(upstream["eyes"], self)


def stages(calls: str = "", **train: object) -> tuple[Stage, Stage]:
    """Eyes, and what learns on them."""
    data, optim = DataConfig(train="digits"), OptimConfig(learning_rate=1e-2)
    first = Stage(name="eyes", task=EyesConfig(), data=data, train=TrainConfig(steps=2, global_batch=32, trackers=(), optim=optim))
    settings = {"steps": 10, "global_batch": 400, "checkpoint_every_steps": 5, "log_every_seconds": 0.5, "trackers": (), "optim": optim}
    second = Stage(name="on_eyes", task=OnEyesConfig(calls=calls), data=data, train=TrainConfig(**{**settings, **train}), needs={"eyes": "eyes"})
    return first, second


def encoders() -> Recipe:
    """A network on what a frozen one sees, for tests alone: `python tests/jobs/run_toy.py encoders`."""
    return Recipe(stages=stages(), smoke=stages())
