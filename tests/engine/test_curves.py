"""One, two and three workers under every strategy: the same fp32 loss curve, also where they do not divide the global batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from genlib import distributed
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.recipe import Stage
from tests.processes import run_ranks
from tests.tiny import ArraySource, TinyConfig

STEPS, KINDS, STRATEGIES = 50, ("CLIP", "VAE"), ("ddp", "zero1", "zero2", "zero3")


def train(root: Path, strategy: str) -> None:
    for kind in KINDS:
        optim = OptimConfig(learning_rate=2e-3, weight_decay=0.1, warmup_steps=5, schedule="cosine", clip_norm=1.0)
        config = TrainConfig(steps=STEPS, global_batch=32, strategy=strategy, checkpoint_every_steps=0, trackers=(), optim=optim)
        folder = root / f"{kind}-{strategy}-{distributed.world_size()}"
        fit(Stage(task=TinyConfig(kind=kind), train=config), recipe="tiny", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def train_all(root: Path) -> None:
    for strategy in STRATEGIES:
        train(root, strategy)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("curves")
    train(root, "single")
    for world in (2, 3):
        run_ranks(world, train_all, root)
    return root


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_curves_are_the_same(runs: Path, kind: str, strategy: str, world: int) -> None:
    alone, together = (
        [json.loads(line)["train/loss"] for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        for name in (f"{kind}-single-1", f"{kind}-{strategy}-{world}")
    )
    assert len(alone) == STEPS
    assert alone[-1] < 0.95 * alone[0]
    assert together == pytest.approx(alone, abs=1e-4)
