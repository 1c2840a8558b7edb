"""Schedule-free AdamW: the weights and averages of the library's own loop, sharded and resumed, and what is learnt is the average."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytorch_optimizer import ScheduleFreeAdamW
from torch import Tensor, nn

from genlib import checkpoint
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.evaluate import evaluate
from genlib.engine.fit import fit
from genlib.engine.iterate_average import IterateAverage
from genlib.engine.optim import parameter_groups
from genlib.engine.strategies import strategy_of
from genlib.recipe import Stage
from genlib.task import Phase, Task
from genlib.types import Batch, Metrics, Step
from tests.every_strategy import STRATEGIES
from tests.processes import run_ranks
from tests.tiny import VAE, ArraySource, TinyConfig
from tune_spaces.base import with_values

STEPS, CUT, BATCH = 8, 4, 24
FREE = OptimConfig(name="schedule_free_adamw", learning_rate=1e-2, weight_decay=0.1, warmup_steps=3, clip_norm=1.0)
KINDS = {"VAE": {}, "GAN": {"D": OptimConfig(learning_rate=1e-3)}}
"""Optimizers of players beside it."""


def stage(kind: str, strategy: str = "auto", **train: object) -> Stage:
    settings = {
        "steps": STEPS, "global_batch": BATCH, "checkpoint_every_steps": 2, "keep_checkpoints": 9, "trackers": (), "optim": FREE,
        "players": KINDS[kind], "evaluate_every_steps": 2, "strategy": strategy,
    }  # fmt: skip
    return Stage(task=TinyConfig(kind=kind), train=TrainConfig(**{**settings, **train}))


def train(folder: Path, stage: Stage) -> Path:
    return fit(stage, recipe="tiny", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def weights(folder: Path, step: int = STEPS, *, ema: bool = False) -> dict[str, Tensor]:
    return checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(step), ema=ema)


def train_whole(root: Path) -> None:
    for kind in KINDS:
        for strategy in STRATEGIES:
            train(root / f"{kind}-{strategy}", stage(kind, strategy))
    for strategy in STRATEGIES:
        train(root / f"VAE-{strategy}-unseen", stage("VAE", strategy, evaluate_every_steps=0))
    for way, strategy, offload in (("optimizer", "zero2", "optimizer"), ("all", "zero3", "all")):
        train(root / f"VAE-offload-{way}", stage("VAE", strategy, offload=offload))


def resume_all(root: Path) -> None:
    for kind in KINDS:
        for strategy in STRATEGIES:
            for origin in ("same", "other"):
                train(root / f"{kind}-{strategy}-{origin}", stage(kind, strategy))


def cut_off(whole: Path, folder: Path) -> None:
    """A copy of a run as it was after half of its steps."""
    shutil.copytree(whole, folder)
    for path in checkpoint.checkpoints(folder / "checkpoints"):
        if path.name > checkpoint.step_name(CUT):
            shutil.rmtree(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole runs of one rank and of two; runs that go on from their own middle, or from that of another strategy; one with three ranks."""
    root = tmp_path_factory.mktemp("free")
    for kind in KINDS:
        train(root / f"{kind}-single", stage(kind))
    run_ranks(2, train_whole, root)
    for kind in KINDS:
        for strategy, other in zip(STRATEGIES, ("zero3", "single", "ddp", "zero2"), strict=True):
            cut_off(root / f"{kind}-{strategy}", root / f"{kind}-{strategy}-same")
            cut_off(root / f"{kind}-{other}", root / f"{kind}-{strategy}-other")
        cut_off(root / f"{kind}-zero1", root / f"{kind}-single-other")
        train(root / f"{kind}-single-other", stage(kind))
        cut_off(root / f"{kind}-zero3", root / f"{kind}-three")
    run_ranks(2, resume_all, root)
    run_ranks(3, train, root / "GAN-three", stage("GAN", "zero3"))
    return root


def test_one_process_does_as_the_library_does(root: Path) -> None:
    """Its own loop with its own warm-up: y, and x by its `eval`."""
    torch.manual_seed(0)
    task = VAE()
    groups = [{"params": [p for p in task.parameters() if (p.dim() > 1) == matrix], "weight_decay": 0.1 * matrix} for matrix in (True, False)]
    optimizer = ScheduleFreeAdamW(groups, lr=1e-2, warmup_steps=3)
    batches = ArraySource().batches("train", BATCH)
    for index in range(STEPS):
        optimizer.zero_grad()
        task.loss("train", next(batches), Step(index, STEPS))[0].mean().backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
    trained = {name: value.clone() for name, value in task.state_dict().items()}
    optimizer.eval()
    for ema, expected in ((False, trained), (True, task.state_dict())):
        for name, value in weights(root / "VAE-single", ema=ema).items():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)
    assert max((trained[name] - value).abs().max() for name, value in task.state_dict().items()) > 1e-3, "the two differ"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_with_the_same_weights_and_averages(root: Path, kind: str, strategy: str) -> None:
    for ema in (False, True):
        whole, same, other = (weights(root / f"{kind}-{strategy}{end}", ema=ema) for end in ("", "-same", "-other"))
        for name, value in whole.items():
            assert torch.equal(same[name], value), f"{name}, ema {ema}"
            torch.testing.assert_close(other[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("run", ["VAE-single-other", "GAN-single-other", "GAN-three", "VAE-offload-optimizer", "VAE-offload-all"])
def test_so_does_one_with_other_ranks_or_in_the_hosts_memory(root: Path, run: str) -> None:
    for ema in (False, True):
        for name, value in weights(root / f"{run[:3]}-single", ema=ema).items():
            torch.testing.assert_close(weights(root / run, ema=ema)[name], value, atol=1e-5, rtol=0)


def test_a_player_with_another_optimizer_has_its_weights_as_they_are(root: Path) -> None:
    trained, averages = (weights(root / "GAN-zero2", ema=ema) for ema in (False, True))
    assert {name for name, value in trained.items() if not torch.equal(averages[name], value)} == {name for name in trained if name.startswith("G.")}


@pytest.mark.parametrize("strategy", ["single", *STRATEGIES])
def test_scores_are_those_of_the_averages(root: Path, strategy: str) -> None:
    rows = [json.loads(line) for line in (root / f"VAE-{strategy}" / "metrics.jsonl").read_text().splitlines()]
    found = {row["step"]: row["val/distortion"] for row in rows if "val/distortion" in row}
    assert list(found) == [2, 4, 6, 8]
    alone, config = strategy_of("single", torch.device("cpu")), stage("VAE").train
    for step, value in found.items():
        for ema, close in ((True, True), (False, False)):
            task = VAE()
            task.load_state_dict(weights(root / f"VAE-{strategy}", step, ema=ema))
            alone.setup(task, replace(config, optim=OptimConfig()))
            assert (evaluate(task, alone, ArraySource(), config)["val/distortion"] == pytest.approx(value, rel=1e-6)) == close


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_look_at_the_averages_changes_no_bit_of_the_weights(root: Path, strategy: str) -> None:
    unseen = weights(root / f"VAE-{strategy}-unseen")
    assert all(torch.equal(unseen[name], value) for name, value in weights(root / f"VAE-{strategy}").items())


class Tied(Task):
    """Two names for a weight; pictures and checkpoints have its average under both."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"one": nn.Linear(32, 32), "two": nn.Linear(32, 32)})
        self.net["two"].weight = self.net["one"].weight

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return (self.net["two"](self.net["one"](batch["x"])) - 1).square().sum(1), {}


def look_at_tied(root: Path, strategy: str) -> None:
    torch.manual_seed(0)
    task, engine = Tied(), strategy_of(strategy, torch.device("cpu"))
    engine.setup(task, TrainConfig(optim=FREE, trackers=()))
    batch = next(ArraySource().batches("train", 8))
    for index in range(3):
        engine.run_phase(Phase(), [{**batch, "weight": batch["valid"].float()}], Step(index, 3))
    average = IterateAverage.of(engine, task, TrainConfig(optim=FREE))
    assert average
    pieces = [(shard.name, shard.offset, shard.tensor) for shard in average.task_shards(list(engine.task_shards()))]
    whole, trained = average.whole_state(), engine.whole_state()
    names = ("net.one.weight", "net.two.weight")
    for name in names if whole else ():
        assert not torch.equal(whole[name], trained[name])
        assert torch.equal(whole[name], whole[names[0]])
    torch.save((pieces, whole), root / f"{strategy}-{torch.distributed.get_rank()}.pt")


@pytest.mark.parametrize("strategy", ["zero1", "zero3"])
def test_pictures_and_checkpoints_have_the_average_of_a_tied_weight_under_both_names(tmp_path: Path, strategy: str) -> None:
    run_ranks(2, look_at_tied, tmp_path, strategy)
    parts = [torch.load(tmp_path / f"{strategy}-{rank}.pt") for rank in (0, 1)]
    for name, value in parts[0][1].items():
        flat = torch.full((value.numel(),), torch.nan)
        for found, offset, piece in (one for pieces, _ in parts for one in pieces):
            if found == name:
                flat[offset : offset + piece.numel()] = piece
        torch.testing.assert_close(flat.view(value.shape), value, atol=1e-7, rtol=0)


def test_what_does_not_go_with_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optim.schedule cosine does not go with schedule_free_adamw, which averages instead; use .*constant"):
        OptimConfig(name="schedule_free_adamw", schedule="cosine")
    with pytest.raises(ValueError, match=r"optim.beta1 0 does not go with schedule_free_adamw.* use 0.9"):
        OptimConfig(name="schedule_free_adamw", beta1=0.0)
    with pytest.raises(ValueError, match=r"train.ema_halflife_samples 100 does not go with schedule_free_adamw, which averages .* itself; use 0"):
        TrainConfig(ema_halflife_samples=100, players={"G": FREE})


def test_weight_limits_are_refused() -> None:
    task = VAE()
    task.phases = (Phase(weight_limit=0.1),)
    with pytest.raises(ValueError, match=r"schedule_free_adamw does not go with phase train of VAE, which limits weights"):
        parameter_groups(task, dict(task.net.named_parameters()), FREE)


def test_a_search_can_choose_it() -> None:
    plain = Stage(task=TinyConfig(kind="VAE"), train=TrainConfig(trackers=()))
    chosen = with_values(plain, {"train.optim.name": "schedule_free_adamw", "train.optim.learning_rate": 3e-3})
    assert (chosen.train.optim.name, chosen.train.optim.learning_rate) == ("schedule_free_adamw", 3e-3)
