"""Phases that start late or weigh more, and a moving average of some players, in whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from genlib import checkpoint
from genlib.config import OptimConfig, TaskConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.recipe import Stage
from genlib.task import Phase, Task
from genlib.types import Batch, DataSpec, Metrics, Step
from tests.tiny import FEATURES, ArraySource

START, STEPS, HALF = 4, 10, 6


class Two(Task):
    """Two players that learn the same, the second from step 4 on and with another weight; the average follows the first."""

    averaged = ("first",)

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, 1), nn.Linear(FEATURES, 1)
        self.second.load_state_dict(self.first.state_dict())
        self.phases = (Phase(name="first", player="first"), Phase(name="second", player="second", start=START, loss_weight=weight))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        assert phase == "first" or step.index >= START
        return self.player(phase)(batch["x"]).square().sum(1), {}


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoConfig(TaskConfig):
    weight: float = 1.0
    """Of the second player's loss."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Two:
        return Two(self.weight)


def run(folder: Path, weight: float = 1.0, learning_rate: float = 0.05, steps: int = STEPS) -> Path:
    optim = OptimConfig(name="sgd", learning_rate=learning_rate)
    train = TrainConfig(
        steps=steps, global_batch=8, optim=optim, trackers=(), ema_halflife_samples=30, checkpoint_every_steps=2, keep_checkpoints=9
    )  # fmt: skip
    stage = Stage(task=TwoConfig(weight=weight), train=train)
    return fit(stage, recipe="two", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def weights(final: Path, player: str, step: int = STEPS) -> Tensor:
    return checkpoint.load_weights(final.with_name(checkpoint.step_name(step)))[f"{player}.weight"]


def test_a_player_stands_still_until_its_phase_starts(tmp_path: Path) -> None:
    final = run(tmp_path)
    start = weights(final, "second", 2)
    assert torch.equal(weights(final, "second", START), start)
    assert not torch.equal(weights(final, "second", START + 2), start)
    assert not torch.equal(weights(final, "first", START), weights(final, "first", 2))
    manifest = checkpoint.read_manifest(final)
    assert manifest.updates == {"first": STEPS, "second": STEPS - START}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["train/second/loss" in row for row in rows] == [False] * START + [True] * (STEPS - START)


def test_a_loss_that_weighs_twice_moves_as_twice_the_learning_rate_and_is_logged_as_it_is(tmp_path: Path) -> None:
    twice, faster = run(tmp_path / "twice", weight=2.0), run(tmp_path / "faster", learning_rate=0.1)
    torch.testing.assert_close(weights(twice, "second"), weights(faster, "second"), rtol=1e-6, atol=1e-7)
    logged = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[START])["train/second/loss"] for name in ("twice", "faster")]
    assert logged[0] == logged[1]


def test_the_average_follows_the_players_that_the_task_names_and_has_the_others_as_they_are(tmp_path: Path) -> None:
    final = run(tmp_path)
    now, average = checkpoint.load_weights(final), checkpoint.load_weights(final, ema=True)
    assert now.keys() == average.keys()
    assert torch.equal(average["second.weight"], now["second.weight"])
    assert not torch.equal(average["first.weight"], now["first.weight"])
    assert torch.equal(checkpoint.load_task(final).state_dict()["first.weight"], average["first.weight"])


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for step in (2, HALF):  # before the second player's start, and after
        folder = tmp_path / f"from_{step}"
        shutil.copytree(tmp_path / "whole", folder)
        for later in range(step + 2, STEPS + 1, 2):
            shutil.rmtree(folder / "checkpoints" / checkpoint.step_name(later))
        again = run(folder)
        for ema in (False, True):
            expected, found = checkpoint.load_weights(whole, ema=ema), checkpoint.load_weights(again, ema=ema)
            assert all(torch.equal(found[name], value) for name, value in expected.items())
