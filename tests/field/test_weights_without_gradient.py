"""A weight that the loss does not reach in a step stays as it is, and so does its optimizer state: the same under every strategy.

Found by running deepspeed 0.19.8 and torch 2.13: ZeRO 1 and 2 handed the optimizer zeros, so that momentum and decay moved such a weight, ZeRO-3
handed it the gradient of the step before, and DistributedDataParallel refused to go on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genlib import checkpoint
from genlib.config import OptimConfig, TaskConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.recipe import Stage
from genlib.task import Phase, Task
from genlib.types import Batch, DataSpec, Metrics, Step
from tests.every_strategy import STRATEGIES, train_all
from tests.processes import run_ranks
from tests.tiny import FEATURES, ArraySource

STEPS, BATCH, HALF = 6, 16, 2
CASES = {
    "never": (), "once": (0,), "late": (3, 4, 5), "now and then": (0, 3, 4), "always": range(STEPS), "second player": range(STEPS),
    "first micro-batch": range(STEPS), "last micro-batch": (1, 2, 5),
}  # fmt: skip
"""Steps at which the second layer is used."""


class Sometimes(Task):
    """Two layers, of which the second is used now and then."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.case = case
        self.net = nn.ModuleDict({"always": nn.Linear(FEATURES, 8), "sometimes": nn.Linear(FEATURES, 8)})
        if case == "second player":
            self.other = nn.ModuleDict({"always": nn.Linear(FEATURES, 3), "sometimes": nn.Linear(FEATURES, 3)})
            self.phases = (Phase(name="net"), Phase(name="other", player="other", every=2, start=1))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        player = self.player("other" if phase == "other" else "net")
        value = player["always"](batch["x"])
        if self.reaches(batch, step):
            value = value + player["sometimes"](batch["x"])
        elif self.case == "one rank":  # under ZeRO-3 all ranks call the same modules
            value = value + 0 * player["sometimes"](batch["x"]).detach()
        return (value - 1).square().sum(1), {}

    def reaches(self, batch: Batch, step: Step) -> bool:
        micro = int(batch["position"][0]) % BATCH // (BATCH // 2)
        rows = {"first micro-batch": micro == 0, "last micro-batch": micro == 1, "one rank": micro == 0}
        return step.index in CASES.get(self.case, range(STEPS)) and rows.get(self.case, True)


@dataclass(frozen=True, kw_only=True, slots=True)
class SometimesConfig(TaskConfig):
    case: str = "once"
    """When the second layer is used."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Sometimes:
        return Sometimes(self.case)


OPTIMS = {
    "adamw": OptimConfig(learning_rate=1e-2, weight_decay=0.3, clip_norm=1.0),
    "sgd": OptimConfig(name="sgd", learning_rate=1e-3, momentum=0.9, weight_decay=0.3),
    "rmsprop": OptimConfig(name="rmsprop", learning_rate=1e-3, momentum=0.9),
    "lion": OptimConfig(name="lion", learning_rate=1e-3, weight_decay=0.3),
    "muon": OptimConfig(name="muon", learning_rate=1e-3, weight_decay=0.3),
    "adafactor": OptimConfig(name="adafactor", learning_rate=1e-2, weight_decay=0.3),
    "schedule_free_adamw": OptimConfig(name="schedule_free_adamw", learning_rate=1e-2, weight_decay=0.3, warmup_steps=2),
}


def stage(case: str, strategy: str = "single", optim: str = "adamw", **train: object) -> Stage:
    settings = {
        "steps": STEPS, "global_batch": BATCH, "accumulation": 2 if "micro" in case else 1, "checkpoint_every_steps": HALF, "keep_checkpoints": 9,
        "trackers": (), "optim": OPTIMS[optim], "strategy": strategy,
    }  # fmt: skip
    return Stage(task=SometimesConfig(case=case), train=TrainConfig(**{**settings, **train}))


def run(folder: Path, stage: Stage) -> Path:
    return fit(stage, recipe="sometimes", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def variants() -> dict[str, Stage]:
    return {
        **{case: stage(case) for case in CASES},
        **{f"now and then, {name}": stage("now and then", optim=name) for name in OPTIMS if name != "adamw"},
    }


def resume_all(root: Path) -> None:
    for strategy in STRATEGIES:
        run(root / f"resumed-{strategy}", stage("now and then", strategy))


def resumable(whole: Path, folder: Path) -> Path:
    """A copy of a whole run, as it was after two steps."""
    shutil.copytree(whole, folder)
    for step in range(2 * HALF, STEPS + 1, HALF):
        shutil.rmtree(folder / "checkpoints" / checkpoint.step_name(step))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sometimes")
    train_all(root, variants, run)
    for strategy, other in zip(STRATEGIES, ("zero3", "single", "ddp", "zero2"), strict=True):  # each goes on from another's checkpoint
        resumable(root / f"now and then-{other}", root / f"resumed-{strategy}")
    resumable(root / "now and then-zero1", root / "resumed-single")
    run(root / "resumed-single", stage("now and then"))
    run_ranks(2, resume_all, root)
    return root


def weights(run: Path, step: int = STEPS) -> dict[str, Tensor]:
    return checkpoint.load_weights(run / "checkpoints" / checkpoint.step_name(step))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", list(variants()))
def test_every_strategy_leaves_the_same_weights(runs: Path, name: str, strategy: str) -> None:
    alone, together = weights(runs / f"{name}-single"), weights(runs / f"{name}-{strategy}")
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["single", *STRATEGIES])
def test_a_run_that_goes_on_counts_the_steps_of_each_weight(runs: Path, strategy: str) -> None:
    whole, again = weights(runs / "now and then-single"), weights(runs / f"resumed-{strategy}")
    for key, value in whole.items():
        torch.testing.assert_close(again[key], value, atol=1e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["single", *STRATEGIES])
def test_a_weight_that_is_used_once_does_not_move_afterwards(runs: Path, strategy: str) -> None:
    run = runs / f"once-{strategy}"
    assert torch.equal(weights(run)["net.sometimes.weight"], weights(run, HALF)["net.sometimes.weight"])
    assert not torch.equal(weights(run)["net.always.weight"], weights(run, HALF)["net.always.weight"])


def test_one_process_does_as_torch_does(tmp_path: Path) -> None:
    final = run(tmp_path, stage("now and then"))
    torch.manual_seed(0)
    task = Sometimes("now and then")
    groups = [{"params": [p for p in task.parameters() if (p.dim() > 1) == matrix], "weight_decay": 0.3 * matrix} for matrix in (True, False)]
    optimizer, batches = torch.optim.AdamW(groups, 1e-2), ArraySource().batches("train", BATCH)
    for index in range(STEPS):
        optimizer.zero_grad()
        task.loss("train", next(batches), Step(index, STEPS))[0].mean().backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
    for key, value in checkpoint.load_weights(final).items():
        torch.testing.assert_close(task.state_dict()[key], value, atol=1e-6, rtol=0)


def refuse_all(root: Path) -> None:
    run(root / "ddp", stage("one rank", "ddp"))
    for number in (1, 2, 3):
        with pytest.raises(ValueError, match=rf"net.sometimes.weight has a gradient on some workers alone, which zero{number} cannot add up"):
            run(root / f"zero{number}", stage("one rank", f"zero{number}"))


@pytest.mark.slow
def test_one_that_only_some_ranks_use_is_averaged_or_refused(tmp_path: Path) -> None:
    run(tmp_path / "single", stage("one rank", accumulation=2))  # half of the rows each
    run_ranks(2, refuse_all, tmp_path)
    for key, value in weights(tmp_path / "single").items():
        torch.testing.assert_close(weights(tmp_path / "ddp")[key], value, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_what_lies_in_the_hosts_memory_is_refused_where_a_micro_batch_would_be_lost(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"net.sometimes.\w+ has a gradient in some micro-batches of a step alone.* use --train.offload none"):
        run(tmp_path / "lost", stage("first micro-batch", "zero2", offload="optimizer"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_what_lies_in_the_hosts_memory_follows_the_rule(runs: Path, tmp_path: Path, strategy: str) -> None:
    run(tmp_path / "kept", stage("now and then", strategy, offload="optimizer"))
    for key, value in weights(runs / "now and then-single").items():
        torch.testing.assert_close(weights(tmp_path / "kept")[key], value, atol=1e-5, rtol=0)


def test_a_loss_that_reaches_nothing_is_refused(tmp_path: Path) -> None:
    class Nothing(Sometimes):
        def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
            return batch["x"].sum(1), {}

    from genlib.engine.single import SingleDevice

    strategy = SingleDevice(torch.device("cpu"))
    strategy.setup(Nothing("once"), stage("once").train)
    batch = next(ArraySource().batches("train", BATCH))
    with pytest.raises(ValueError, match="the loss of phase train reaches no weight that the phase trains"):
        strategy.run_phase(Phase(), [{**batch, "weight": batch["valid"].float()}], Step(0, STEPS))
