"""What only a GPU shows; skipped without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from genlib import checkpoint
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.engine.optim import make_optimizer
from genlib.engine.prefetcher import Prefetcher
from genlib.recipe import Stage
from tests.tiny import KINDS, ArraySource, TinyConfig

pytestmark = pytest.mark.gpu


def train(folder: Path, kind: str, device: str, **options: object) -> tuple[Path, list[dict]]:
    config = TrainConfig(**{"steps": 8, "global_batch": 24, "checkpoint_every_steps": 4, "ema_halflife_samples": 48, "trackers": (), **options})
    final = fit(Stage(task=TinyConfig(kind=kind), train=config), recipe="tiny", source=ArraySource(), folder=folder, device=torch.device(device))
    return final, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", list(KINDS))
def test_gpu_equals_cpu(kind: str, tmp_path: Path) -> None:
    _, cpu = train(tmp_path / "cpu", kind, "cpu")
    _, gpu = train(tmp_path / "gpu", kind, "cuda")
    names = [name for name in cpu[0] if name.endswith("loss")]
    for a, b in zip(cpu, gpu, strict=True):
        assert [b.get(name) for name in names] == pytest.approx([a.get(name) for name in names], rel=1e-3)


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"compile": True}, {"strategy": "zero1"}, {"strategy": "zero2"}, {"strategy": "zero3"}])
def test_ways_of_training_learn(options: dict, tmp_path: Path) -> None:
    final, rows = train(tmp_path, "VAE", "cuda", steps=30, **options)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert rows[-1]["gpu_memory_peak_gb"] > 0
    assert all(value.isfinite().all() for value in checkpoint.load_weights(final).values())


def test_batches_are_on_the_device_ahead_of_the_step() -> None:
    prefetcher = Prefetcher(ArraySource().batches("train", 16), 16, torch.device("cuda"))
    batch = next(prefetcher)
    assert all(value.device.type == "cuda" for value in batch.values())
    assert batch["weight"].sum() == 16
    prefetcher.close()


def test_optimizers_are_fused() -> None:
    weight = torch.nn.Parameter(torch.ones(4, device="cuda"))
    for name in ("adamw", "adam", "sgd"):
        assert make_optimizer([{"params": [weight], "weight_decay": 0.0}], OptimConfig(name=name)).defaults["fused"]
