"""State in the host's memory: the same weights and averages as in one process without, also when the run goes on under another strategy."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint
from genlib.config import TrainConfig
from genlib.recipe import Stage
from tests.engine.test_equality import STEPS, TOLERANCE, losses, stage, train
from tests.processes import run_ranks

WAYS = {"zero2": "optimizer", "zero3": "optimizer", "all": "all"}
KINDS = {"VAE": stage("VAE"), "GAN": stage("GAN"), "VAE-accumulated": stage("VAE", accumulation=3), "OnCodes": stage("OnCodes")}
HALF = STEPS // 2


def offloaded(one: Stage, way: str) -> Stage:
    return replace(one, train=replace(one.train, strategy="zero3" if way == "all" else way, offload=WAYS[way]))


def halfway(one: Stage) -> Stage:
    return replace(one, train=replace(one.train, checkpoint_every_steps=HALF, keep_checkpoints=9))


def train_all(root: Path) -> None:
    for name, one in KINDS.items():
        for way in WAYS:
            train(root / f"{name}-{way}", offloaded(halfway(one), way))


def resume_all(root: Path) -> None:
    """From the middle of each run's own checkpoints, the later ones forgotten."""
    for way in WAYS:
        train(root / f"VAE-{way}-again", offloaded(halfway(KINDS["VAE"]), way))
        train(root / f"VAE-single-then-{way}", offloaded(halfway(KINDS["VAE"]), way))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("offload")
    for name, one in KINDS.items():
        train(root / f"{name}-single", halfway(one))
    run_ranks(2, train_all, root)
    for way in WAYS:
        for target, origin in ((f"VAE-{way}-again", f"VAE-{way}"), (f"VAE-single-then-{way}", "VAE-single")):
            shutil.copytree(*(root / run / "checkpoints" / checkpoint.step_name(HALF) for run in (origin, target)))
    run_ranks(2, resume_all, root)
    return root


def same(expected: Path, found: Path) -> None:
    for ema in (False, True):
        one, other = (checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(STEPS), ema=ema) for folder in (expected, found))
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_offloaded_equals_one_process(runs: Path, name: str, way: str) -> None:
    same(runs / f"{name}-single", runs / f"{name}-{way}")
    for before, after in zip(losses(runs / f"{name}-single"), losses(runs / f"{name}-{way}"), strict=True):
        assert after == pytest.approx(before, rel=1e-5, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_resumed_equals_uninterrupted(runs: Path, way: str) -> None:
    same(runs / "VAE-single", runs / f"VAE-{way}-again")
    same(runs / "VAE-single", runs / f"VAE-single-then-{way}")


@pytest.mark.parametrize(
    ("strategy", "offload"), [("auto", "optimizer"), ("single", "optimizer"), ("ddp", "all"), ("zero1", "optimizer"), ("zero2", "all")]
)
def test_other_strategies_refuse(strategy: str, offload: str) -> None:
    with pytest.raises(ValueError, match=rf"train.offload {offload} needs train.strategy zero.*, not {strategy}; change one of them"):
        TrainConfig(strategy=strategy, offload=offload)
