"""Optimizers that look at whole weights: state lies with one rank a weight, and a run goes on under any strategy and number of ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from genlib import checkpoint
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.recipe import Stage
from tests.processes import run_ranks
from tests.tiny import ArraySource, TinyConfig

STEPS, CUT = 8, 4
NAMES = ("muon", "adafactor")


def train(folder: Path, name: str, strategy: str) -> Path:
    optim = OptimConfig(name=name, learning_rate=1e-3, beta1=0.95, weight_decay=0.1, schedule="linear", clip_norm=1.0)
    train = TrainConfig(
        steps=STEPS, global_batch=24, checkpoint_every_steps=2, keep_checkpoints=9, trackers=(), optim=optim, strategy=strategy,
        ema_halflife_samples=48,
    )  # fmt: skip
    stage = Stage(task=TinyConfig(kind="GAN"), train=train)
    return fit(stage, recipe="tiny", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def train_all(root: Path, folder: str, strategy: str) -> None:
    for name in NAMES:
        train(root / f"{name}-{folder}", name, strategy)


def cut_off(whole: Path, folder: Path) -> None:
    """A copy of a run as it was after half of its steps."""
    shutil.copytree(whole, folder)
    for path in checkpoint.checkpoints(folder / "checkpoints"):
        if path.name > checkpoint.step_name(CUT):
            shutil.rmtree(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole runs, and some that went on under others: three ranks under ZeRO-3, two under ZeRO-1, one."""
    root = tmp_path_factory.mktemp("whole")
    run_ranks(2, train_all, root, "whole", "zero3")
    for name in NAMES:
        for folder in ("same", "three", "zero1", "alone"):
            cut_off(root / f"{name}-whole", root / f"{name}-{folder}")
        train(root / f"{name}-alone", name, "single")
    run_ranks(2, train_all, root, "same", "zero3")
    run_ranks(3, train_all, root, "three", "zero3")
    run_ranks(2, train_all, root, "zero1", "zero1")
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(STEPS))


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_with_the_same_weights(root: Path, name: str) -> None:
    whole, same = weights(root / f"{name}-whole"), weights(root / f"{name}-same")
    assert all(torch.equal(same[key], value) for key, value in whole.items())
    for folder in ("three", "zero1", "alone"):
        made = weights(root / f"{name}-{folder}")
        for key, value in whole.items():
            torch.testing.assert_close(made[key], value, atol=1e-5, rtol=0, msg=lambda text, key=key, folder=folder: f"{folder} {key}: {text}")


@pytest.mark.parametrize("name", NAMES)
def test_each_rank_keeps_some_weights_state_and_all_of_it(root: Path, name: str) -> None:
    """Adafactor's sums, and Muon's momentum, are nobody else's; the pieces of what AdamW moves lie with those who hold them."""
    found: list[dict[str, int]] = []
    for path in sorted((root / f"{name}-whole" / "checkpoints" / checkpoint.step_name(STEPS) / "state").glob("rank_*.safetensors")):
        with safe_open(path, "pt") as file:
            found.append({entry.partition("@")[0]: file.get_slice(entry).get_shape()[0] for entry in file.keys()})  # noqa: SIM118
    key = {"muon": "momentum_buffer", "adafactor": "row_var"}[name]
    one, two = ({entry for entry in held if entry.endswith(f"/{key}")} for held in found)
    assert one
    assert two
    assert not one & two
    assert len(one | two) == sum(value.dim() == 2 for value in weights(root / f"{name}-whole").values())
