"""One, two and three workers under every strategy: the same fp32 loss curve, also where they do not divide the global batch."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import distributed, registry
from genlib.config import OptimConfig, TrainConfig
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.recipe import Stage
from tests.processes import run_ranks
from tests.tiny import ArraySource, TinyConfig

STEPS, KINDS, STRATEGIES = 50, ("CLIP", "VAE"), ("ddp", "zero1", "zero2", "zero3")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def train(root: Path, strategy: str) -> None:
    for kind in KINDS:
        optim = OptimConfig(learning_rate=2e-3, weight_decay=0.1, warmup_steps=5, schedule="cosine", clip_norm=1.0)
        config = TrainConfig(steps=STEPS, global_batch=32, strategy=strategy, checkpoint_every_steps=0, trackers=(), optim=optim)
        folder = root / f"{kind}-{strategy}-{distributed.world_size()}"
        fit(Stage(task=TinyConfig(kind=kind), train=config), recipe="tiny", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def train_all(root: Path) -> None:
    for strategy in STRATEGIES:
        train(root, strategy)


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])  # three do not divide the batch
def runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, int]:
    root = tmp_path_factory.mktemp("curves")
    train(root, "single")
    run_ranks(request.param, train_all, root)
    return root, request.param


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_curves_are_the_same(runs: tuple[Path, int], kind: str, strategy: str) -> None:
    root, world = runs
    alone, together = losses(root / f"{kind}-single-1"), losses(root / f"{kind}-{strategy}-{world}")
    assert len(alone) == STEPS
    assert alone[-1] < 0.95 * alone[0]
    assert together == pytest.approx(alone, abs=1e-4)


def train_clip(root: Path, strategies: tuple[str, ...]) -> None:
    """At a low learning rate: at the recipe's own, one process whose weights are moved by 1e-7 of themselves is 1e-3 away after 50 steps."""
    stage = registry.load("clip_tiny").stages[0]
    optim = replace(stage.train.optim, learning_rate=5e-5)
    for strategy in strategies:
        config = replace(
            stage.train, steps=STEPS, global_batch=64, precision="fp32", strategy=strategy, optim=optim, checkpoint_every_steps=0, trackers=()
        )
        folder = root / f"clip_tiny-{strategy}-{distributed.world_size()}"
        fit(replace(stage, train=config), recipe="clip_tiny", source=open_source(stage.data), folder=folder, device=torch.device("cpu"))


@pytest.mark.slow
def test_loss_curves_of_the_headline_recipe_are_the_same(tmp_path: Path) -> None:
    train_clip(tmp_path, ("single",))
    for world in (2, 3):
        run_ranks(world, train_clip, tmp_path, STRATEGIES)
    alone = losses(tmp_path / "clip_tiny-single-1")
    assert alone[-1] < alone[0]
    for strategy, world in itertools.product(STRATEGIES, (2, 3)):
        assert losses(tmp_path / f"clip_tiny-{strategy}-{world}") == pytest.approx(alone, abs=1e-4), (strategy, world)
