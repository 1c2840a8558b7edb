"""Runs of two players that are killed anywhere, again and again, end with every bit of state that an undisturbed run ends with.

What `test_contract.py` asks of weights after a clean stop is asked here of all that a checkpoint holds, and of runs that SIGKILL ends at a random
call of a random step: in a phase, between the players, after the step, or in the middle of a save.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor

from genlib import checkpoint, registry
from genlib.config import replaced
from genlib.engine import fit as fitting
from genlib.recipe import Stage
from tests.models.stages import metrics, train_stage
from tests.processes import run_ranks

STEPS = 13
CALLS = {"stylegan2": 3200, "stylegan3_t": 3200, "cyclegan": 400}
"""Calls of our functions after which a run is cut at the latest, somewhat more than a step's; those of dense networks are 250."""
CHANGES: dict[str, dict[str, Any]] = {
    "stylegan2": {"game.augment": "ada", "game.augment_images": 400, "game.augment_target": 0.0, "game.penalty_every": 3, "game.path_every": 2},
    "stylegan3_t": {"game.augment_images": 400, "game.augment_target": 0.0},
    "gan": {"game.replay": 24},
    "wgan": {},
    "cgan": {"game.replay": 24},
    "infogan": {},
    "cyclegan": {"pool_size": 20},
}
"""What gives a recipe's smoke form all the state that its family can have."""
KEPT = {
    "stylegan2": ("augment.strength", "augment.signs", "path_mean", "generator.mapping.w_avg"),
    "stylegan3_t": ("augment.strength", "generator.mapping.w_avg", "generator.synthesis.L1_24_8.magnitude_ema"),
    "gan": ("replay.kept_0", "replay.count"),
    "wgan": (),
    "cgan": ("replay.kept_0", "replay.kept_1", "replay.count"),
    "infogan": (),
    "cyclegan": ("pools.A.pictures", "pools.B.pictures"),
}
"""What it keeps beside weights, in names of the checkpoint."""


def stage(recipe: str) -> Stage:
    """The smoke stage with that state, and an average of weights."""
    (one,) = registry.load(recipe).smoke
    task = one.task
    for name, value in CHANGES[recipe].items():
        task = replaced(task, name, value)
    train = {"steps": STEPS, "checkpoint_every_steps": 3, "keep_checkpoints": 9, "ema_halflife_samples": 64, "evaluate_every_steps": 5}
    return replace(one, task=task, train=replace(one.train, **train))


def train(recipe: str, folder: Path, strategy: str, at: int | None = None, calls: int = 0) -> None:
    """Trains in `folder`; with `at`, this process kills itself so many calls of our functions after that step's beginning."""
    torch.set_num_threads(1)
    if at is not None:
        begin = fitting.Training.step

        def step(self: fitting.Training, step: Any, micro_batches: Any) -> dict:
            if step.index == at:
                sys.setprofile(partial(cut, iter(range(calls))))
            return begin(self, step, micro_batches)

        fitting.Training.step = step  # of this process alone
    train_stage(recipe, stage(recipe), folder, {}, strategy=strategy)


def cut(left: Iterator[int], frame: Any, event: str, argument: object) -> None:
    """Ends the process for good once the calls that are left have been made."""
    if event == "call" and "/genlib/" in frame.f_code.co_filename and next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)


def run(recipe: str, folder: Path, strategy: str, *cut_at: int) -> None:
    """Trains to the end, or until it is cut; each rank at its own step and call, and who is left alone ends too."""
    if strategy == "single":
        process = mp.get_context("forkserver").Process(target=train, args=(recipe, folder, strategy, *cut_at))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if cut_at else 0)
    elif cut_at:
        with pytest.raises((mp.ProcessExitedException, mp.ProcessRaisedException)):
            run_ranks(2, train, recipe, folder, strategy, *cut_at)
    else:
        run_ranks(2, train, recipe, folder, strategy)


def state(folder: Path, step: int = STEPS) -> dict[str, Tensor]:
    """All tensors of a checkpoint by file and name: weights, average, and each rank's pieces of the optimizers."""
    one = folder / "checkpoints" / checkpoint.step_name(step)
    return {f"{path.relative_to(one)}: {name}": value for path in sorted(one.rglob("*.safetensors")) for name, value in load_file(path).items()}


def ask(recipe: str, root: Path, strategy: str = "single", kills: int = 3) -> None:
    """Kills a run at random places and compares what it leaves with what one leaves that was let go on."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    draw, whole, cuts = random.Random(seed), root / "whole", root / "cut"
    run(recipe, whole, strategy)
    for at in sorted(draw.choices(range(1, STEPS - 2), k=kills)):
        run(recipe, cuts, strategy, at, draw.randrange(CALLS.get(recipe, 300)))
        assert not (cuts / "checkpoints" / checkpoint.step_name(STEPS)).exists()
    run(recipe, cuts, strategy)
    expected, found = state(whole), state(cuts)
    assert expected.keys() == found.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []
    assert metrics(cuts) == metrics(whole)
    early = state(whole, 3)
    for name in ("weights.safetensors: course",) * (recipe != "cyclegan") + tuple(f"weights.safetensors: {one}" for one in KEPT[recipe]):
        assert not torch.equal(expected[name], early[name]), f"{name} stands still"
    for part in ("ema.safetensors", "state/rank_00000.safetensors"):
        assert any(not torch.equal(value, early[name]) for name, value in expected.items() if name.startswith(part)), part


def test_a_stylegan_that_is_killed_anywhere_ends_as_if_it_were_not(tmp_path: Path) -> None:
    ask("stylegan2", tmp_path, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in CHANGES if name != "stylegan2"])
def test_players_that_are_killed_anywhere_end_as_if_they_were_not(recipe: str, tmp_path: Path) -> None:
    ask(recipe, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2"])
@pytest.mark.parametrize("recipe", ["stylegan2", "gan", "cyclegan"])
def test_two_ranks_that_are_killed_anywhere_end_as_if_they_were_not(recipe: str, strategy: str, tmp_path: Path) -> None:
    ask(recipe, tmp_path, strategy)
