"""One process against two under every strategy, over eight kinds of learner: the same weights, averages and loss curves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.recipe import Stage
from tests.every_strategy import STRATEGIES, train_all
from tests.tiny import KINDS, ArraySource, TinyConfig

STEPS = 6
OTHERS = ("sgd", "rmsprop", "lion", "muon", "adafactor")
FREE = OptimConfig(name="schedule_free_adamw", learning_rate=1e-2, weight_decay=0.2, warmup_steps=2)
"""Optimizers beside those of the kinds."""
TOLERANCE = 1e-5  # fp32 sums in another order, six steps of Adam; 2.4e-7 was typical


def stage(kind: str, **train: object) -> Stage:
    rule = kind in ("RBM", "SOM")
    optim = OptimConfig(
        name="sgd" if rule else "adam", learning_rate=0.1 if rule else 1e-3, clip_norm=0.0 if rule else 1.0, warmup_steps=2, schedule="cosine"
    )
    defaults = {"steps": STEPS, "global_batch": 24, "checkpoint_every_steps": 0, "ema_halflife_samples": 48, "trackers": (), "optim": optim}
    return Stage(task=TinyConfig(kind=kind), train=TrainConfig(**{**defaults, **train}))


def train(folder: Path, stage: Stage) -> Path:
    return fit(stage, recipe="tiny", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def losses(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name.startswith("train/") and "grad_norm" not in name} for row in rows]


def variants() -> dict[str, Stage]:
    plain = {kind: stage(kind) for kind in KINDS}
    accumulated = {f"{kind}-accumulated": stage(kind, accumulation=3) for kind in ("VAE", "WGANGP", "CLIP", "RBM")}
    uneven = {f"{kind}-uneven": stage(kind, global_batch=25) for kind in ("VAE", "CLIP", "RBM")}
    decay = OptimConfig(learning_rate=1e-2, weight_decay=0.2, beta2=0.95)
    decayed = {
        f"{kind}-decayed": stage(kind, optim=decay, players={"G": OptimConfig(learning_rate=5e-3, weight_decay=0.5)}) for kind in ("VAE", "GAN")
    }
    others = {f"VAE-{name}": stage("VAE", optim=OptimConfig(name=name, momentum=0.9, learning_rate=1e-4)) for name in OTHERS}
    free = {
        f"{kind}-schedule_free_adamw": stage(kind, optim=FREE, players={"G": replace(FREE, beta1=0.5)}, ema_halflife_samples=0)
        for kind in ("VAE", "GAN")
    }
    return {**plain, **accumulated, **uneven, **decayed, **others, **free}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("equality")
    train_all(root, variants, train)
    return root


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", list(variants()))
def test_two_processes_equal_one(runs: Path, name: str, strategy: str) -> None:
    alone, together = runs / f"{name}-single", runs / f"{name}-{strategy}"
    for ema in (False, True):
        expected, found = (checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(STEPS), ema=ema) for folder in (alone, together))
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=TOLERANCE, rtol=0, msg=lambda text, key=key, ema=ema: f"{key}, ema {ema}: {text}")
    for before, after in zip(losses(alone), losses(together), strict=True):
        assert after == pytest.approx(before, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", list(variants()))
def test_training_moves_weights_and_average(runs: Path, name: str) -> None:
    final = runs / f"{name}-single" / "checkpoints" / checkpoint.step_name(STEPS)
    torch.manual_seed(0)
    start, weights, ema = (
        variants()[name].task.build(ArraySource().spec, {}).state_dict(),
        checkpoint.load_weights(final),
        checkpoint.load_weights(final, ema=True),
    )
    moved = [key for key, value in weights.items() if not torch.equal(value, start[key])]
    assert moved
    assert all(torch.equal(ema[key], weights[key]) == (key not in moved) for key in weights if not key.startswith("key."))


@pytest.mark.parametrize("strategy", ["single", *STRATEGIES])
@pytest.mark.parametrize("kind", ["VAE", "CLIP"])
def test_micro_batches_equal_the_whole_batch(runs: Path, kind: str, strategy: str) -> None:
    whole, split = runs / f"{kind}-single", runs / f"{kind}-accumulated-{strategy}"
    expected, found = (checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(STEPS)) for folder in (whole, split))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=TOLERANCE, rtol=0)
    for before, after in zip(losses(whole), losses(split), strict=True):
        assert after == pytest.approx(before, rel=1e-5, abs=1e-5)
