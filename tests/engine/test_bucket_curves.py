"""Training on aspect-ratio buckets: one, two and three workers, also with a restart in another world, have the same loss curve."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from genlib import distributed, random
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step
from tests.data.shards import write_tar
from tests.processes import run_ranks

STEPS, BATCH, SAMPLES = 30, 8, 60  # 8 is not divisible by 3
STRATEGIES = ("ddp", "zero3")
STORED = ((32, 32), (64, 40), (30, 50), (33, 30), (90, 30))


class Denoiser(Task):
    """Two convolutions take noise out of pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 3, padding=1))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        image = batch["image"]
        noise = random.normal(batch["position"], tuple(image.shape[1:]), seed=step.seed, stream="noise")
        width = image.new_full((len(image),), image.shape[3])
        return (self.net(image + 0.3 * noise) - image).square().mean((1, 2, 3)), {"width": width}


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiserConfig(TaskConfig):
    """No settings."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Denoiser:
        assert data.bucket_step == 8
        return Denoiser()


def write_noise(folder: Path) -> None:
    """Smooth random pictures in five shapes."""
    generator, entries = np.random.default_rng(0), []
    for number in range(SAMPLES):
        buffer = io.BytesIO()
        small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize(STORED[number % len(STORED)], Image.Resampling.BICUBIC).save(buffer, "png")
        entries.append((f"{number:05d}.png", buffer.getvalue()))
    write_tar(folder / "set" / "0.tar", entries)


def stage(root: Path, strategy: str, steps: int = STEPS) -> Stage:
    optim = OptimConfig(learning_rate=5e-3, clip_norm=1.0)
    train = TrainConfig(steps=steps, global_batch=BATCH, accumulation=2, strategy=strategy, checkpoint_every_steps=0, trackers=(), optim=optim)
    return Stage(task=DenoiserConfig(), train=train, data=DataConfig(train=str(root / "set"), image_size=32, bucket_step=8))


def train(root: Path, strategy: str, name: str = "", steps: int = STEPS) -> None:
    what = stage(root, strategy, steps)
    folder = root / (name or f"{strategy}-{distributed.world_size()}")
    fit(what, recipe="denoiser", source=open_source(what.data), folder=folder, device=torch.device("cpu"))


def train_all(root: Path) -> None:
    for strategy in STRATEGIES:
        train(root, strategy)


def rows(run: Path, name: str) -> list[float]:
    return [json.loads(line)[f"train/{name}"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("buckets")
    write_noise(root)
    train(root, "single")
    for world in (2, 3):
        run_ranks(world, train_all, root)
    return root


@pytest.mark.slow
def test_pictures_of_all_buckets_are_learnt(runs: Path) -> None:
    losses, widths = rows(runs / "single-1", "loss"), rows(runs / "single-1", "width")
    assert len(losses) == STEPS
    assert np.mean(losses[-10:]) < 0.5 * losses[0]
    assert min(widths) < 32 < max(widths)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_loss_curves_are_the_same(runs: Path, strategy: str, world: int) -> None:
    for name in ("loss", "width"):
        assert rows(runs / f"{strategy}-{world}", name) == pytest.approx(rows(runs / "single-1", name), abs=1e-4)


@pytest.mark.slow
def test_a_restart_in_another_world_goes_on(runs: Path) -> None:
    train(runs, "single", "restarted", steps=15)
    run_ranks(3, train, runs, "ddp", "restarted")
    assert rows(runs / "restarted", "loss") == pytest.approx(rows(runs / "single-1", "loss"), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "value"), [("bucket_step", 16), ("bucket_max_aspect", 1.5), ("bucket_step", 0)])
def test_other_buckets_are_another_run(runs: Path, setting: str, value: float) -> None:
    what = stage(runs, "single", STEPS + 1)
    other = replace(what, data=replace(what.data, **{setting: value}))
    with pytest.raises(ValueError, match=rf"the run was started with data\.{setting} = .*, now it is {value}; restore it or use another run name"):
        fit(other, recipe="denoiser", source=open_source(other.data), folder=runs / "single-1", device=torch.device("cpu"))
