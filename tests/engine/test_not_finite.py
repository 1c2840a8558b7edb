"""A loss or gradient that is not finite: skipped on all ranks, counted, named; too many in a row stop the run; never saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genlib import checkpoint
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.engine.strategies import strategy_of
from genlib.recipe import Stage
from genlib.task import Phase
from genlib.types import Batch, Metrics, Step
from tests.processes import run_ranks
from tests.tiny import VAE, ArraySource, TinyConfig

BAD = 30  # a position of step 1 (of 24 samples); in a world of two it is rank 0's
STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3")


def stage(**train: object) -> Stage:
    return Stage(task=TinyConfig(), train=TrainConfig(**{"steps": 4, "global_batch": 24, "checkpoint_every_steps": 0, "trackers": (), **train}))


def train(folder: Path, strategy: str, bad: tuple[int, ...] = (BAD,), **options: object) -> Path:
    source = ArraySource(bad_positions=bad)
    return fit(stage(strategy=strategy, **options), recipe="tiny", source=source, folder=folder, device=torch.device("cpu"))


def train_all(root: Path) -> None:
    for strategy in STRATEGIES[1:]:
        train(root / strategy, strategy)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("not-finite")
    train(root / "single", "single")
    run_ranks(2, train_all, root)
    return root


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_step_is_skipped_everywhere_and_counted(runs: Path, strategy: str) -> None:
    final = runs / strategy / "checkpoints" / checkpoint.step_name(4)
    manifest = checkpoint.read_manifest(final)
    assert (manifest.skipped, manifest.updates) == (1, {"net": 3})
    for key, value in checkpoint.load_weights(runs / "single" / "checkpoints" / checkpoint.step_name(4)).items():
        assert value.isfinite().all()
        torch.testing.assert_close(checkpoint.load_weights(final)[key], value, atol=1e-5, rtol=0)
    rows = [json.loads(line) for line in (runs / strategy / "metrics.jsonl").read_text().splitlines()]
    assert [row["train/skipped"] for row in rows] == [0, 1, 1, 1]
    assert rows[1]["train/loss"] is None


def test_the_batch_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(tmp_path, "single")
    assert "step 2, phase train: the loss of rank 0 (samples row-24 to row-47) is not finite: skipped, 1 in all" in capsys.readouterr().out


def test_too_many_in_a_row_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"step 3, phase train: .* 2 times in a row; lower the learning rate"):
        train(tmp_path, "single", bad=(30, 50), max_skipped_in_a_row=2)
    train(tmp_path / "apart", "single", bad=(30, 80), max_skipped_in_a_row=2)


def test_finite_loss_with_infinite_gradient_is_skipped() -> None:
    class Cusp(VAE):
        def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
            return sum(p.sum().abs().sub(p.sum().abs()).sqrt() for p in self.parameters()), {}

    strategy = strategy_of("single", torch.device("cpu"))
    task = Cusp()
    strategy.setup(task, TrainConfig(optim=OptimConfig(learning_rate=1.0)))
    before = [p.clone() for p in task.parameters()]
    update = strategy.run_phase(Phase(), [{"weight": torch.ones(2), "position": torch.arange(2)}], Step(0, 1))
    assert not update.applied
    assert update.metrics["loss"] == 0
    assert all(torch.equal(p, q) for p, q in zip(task.parameters(), before, strict=True))


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weight net\.\S+ has values that are not finite, so the checkpoint is not saved"):
        train(tmp_path, "single", bad=(), optim=OptimConfig(name="sgd", learning_rate=3e38), max_skipped_in_a_row=99)
    assert checkpoint.newest(tmp_path / "checkpoints") is None
