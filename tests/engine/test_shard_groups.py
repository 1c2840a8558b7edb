"""How ZeRO-3 gathers, in shard groups and one by one: the same weights as otherwise; with groups, less is sent between them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from genlib import checkpoint
from genlib.config import TrainConfig
from genlib.engine import zero
from genlib.engine.step_traffic import step_traffic
from genlib.engine.strategies import strategy_of
from genlib.engine.trace import FakeTask
from genlib.recipe import Stage
from genlib.types import Step
from tests.engine.test_equality import FREE, STEPS, stage, train
from tests.engine.test_step_traffic import ROWS, WIDTH, Layers
from tests.processes import run_ranks
from tests.wire import CountedBytes

KINDS = {
    "VAE": stage("VAE"), "GAN": stage("GAN"), "CLIP": stage("CLIP"), "accumulated": stage("VAE", accumulation=3),
    "bf16": stage("VAE", precision="bf16"), "offloaded": stage("VAE", strategy="zero3", offload="all"),
    "averaging": stage("VAE", optim=FREE, ema_halflife_samples=0),
}  # fmt: skip
HALF = STEPS // 2


def with_groups(one: Stage, size: int) -> Stage:
    """It looks at the validation split in the middle, so that weights are gathered between steps too."""
    options: dict[str, Any] = {
        "strategy": "zero3",
        "shard_group_size": size,
        "checkpoint_every_steps": HALF,
        "keep_checkpoints": 9,
        "evaluate_every_steps": 2,
    }
    return replace(one, train=replace(one.train, **options))


def train_all(root: Path) -> None:
    for name, one in KINDS.items():
        for size in (0, 2):
            train(root / f"{name}-{size}", with_groups(one, size))
    if dist.get_rank() == 0:
        for size in (0, 2):
            middle = Path("checkpoints", checkpoint.step_name(HALF))
            shutil.copytree(root / "VAE-0" / middle, root / f"VAE-0-then-{size}" / middle)
    dist.barrier()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zero, "SINGLE_ELEMENTS", 1)
        for name in ("VAE", "CLIP", "bf16"):
            for size in (0, 2):
                train(root / f"{name}-{size}-singly", with_groups(KINDS[name], size))
    train(root / "VAE-0-then-2", with_groups(KINDS["VAE"], 2))
    train(root / "VAE-0-then-0", with_groups(KINDS["VAE"], 0))
    for size in (0, 2, 4):
        if dist.get_rank() == 0:
            (root / f"sent-{size}.json").write_text(json.dumps(sent(size)))
        else:
            sent(size)


def sent(size: int) -> tuple[int, int, int]:
    """Bytes that a step gathers from all, inside of groups, and adds up."""
    made = strategy_of("zero3", torch.device("cpu"))
    with made.sharded_init:  # type: ignore[union-attr]
        task = Layers()
    made.setup(task.train(), TrainConfig(strategy="zero3", shard_group_size=size, global_batch=4 * ROWS))
    batch = {"sample": torch.randn(ROWS, WIDTH), "valid": torch.ones(ROWS, dtype=torch.bool), "weight": torch.ones(ROWS)}
    counted = CountedBytes()
    for index in range(2):
        with (counted := CountedBytes()):
            made.run_phase(task.phases[0], [batch], Step(index, 2, 0))
    return counted.gathered, counted.gathered_in_groups, counted.reduced


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("groups")
    run_ranks(4, train_all, root)
    return root


def same(one: Path, other: Path) -> None:
    for ema in (False, True):
        expected, found = (checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(STEPS), ema=ema) for folder in (one, other))
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", list(KINDS))
def test_groups_of_two_learn_what_four_do(runs: Path, name: str) -> None:
    same(runs / f"{name}-0", runs / f"{name}-2")


@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("name", ["VAE", "CLIP", "bf16"])
def test_weights_gathered_one_by_one_are_learnt_as_together(runs: Path, name: str, size: int) -> None:
    same(runs / f"{name}-0", runs / f"{name}-{size}-singly")


def test_a_run_goes_on_with_groups_and_without(runs: Path) -> None:
    same(runs / "VAE-0", runs / "VAE-0-then-2")
    same(runs / "VAE-0", runs / "VAE-0-then-0")


def test_between_groups_weights_go_once_a_step(runs: Path) -> None:
    without, groups, whole = (json.loads((runs / f"sent-{size}.json").read_text()) for size in (0, 2, 4))
    assert without[1] == 0
    assert whole == without, "four workers are one group, and need none"
    assert groups[0] + groups[1] == pytest.approx(without[0], rel=0.01)
    planned = step_traffic(FakeTask(Layers), TrainConfig(strategy="zero3", shard_group_size=2), "zero3", 4)
    assert (planned.gathered, planned.gathered_in_groups, planned.reduced) == pytest.approx(groups, rel=0.1)
    usual = step_traffic(FakeTask(Layers), TrainConfig(strategy="zero3"), "zero3", 4)
    assert planned.sent_bytes(4) < usual.sent_bytes(4)


def train_aloud(folder: Path) -> None:
    """Each rank writes down what it said."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        train(folder / "run", with_groups(KINDS["VAE"], 3))
    (folder / f"said-{dist.get_rank()}").write_text(said.getvalue())


def test_groups_that_the_workers_do_not_fill_are_none_and_that_is_said(tmp_path: Path) -> None:
    run_ranks(2, train_aloud, tmp_path)
    assert "2 workers do not fill groups of 3 (train.shard_group_size), so" in (tmp_path / "said-0").read_text()
    assert "groups" not in (tmp_path / "said-1").read_text()


def test_groups_are_of_zero3() -> None:
    with pytest.raises(ValueError, match=r"^train.shard_group_size 8 needs train.strategy zero3, not zero2"):
        TrainConfig(strategy="zero2", shard_group_size=8)
