"""What every recipe promises, asked of all in the registry."""

from __future__ import annotations

import inspect
import shutil
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genlib import checkpoint, registry
from genlib.config import OptimConfig, from_json, to_json
from genlib.data.source import ShardSource, open_source
from genlib.engine import strategy as strategies
from genlib.engine.fit import fit
from genlib.recipe import Stage
from genlib.task import Task, weighted_mean
from genlib.types import Batch, Step
from tests.processes import run_ranks

CPU = torch.device("cpu")
STAGES = [(name, stage) for name in registry.RECIPES for stage in registry.load(name).smoke]
every_stage = pytest.mark.parametrize(("recipe", "stage"), STAGES, ids=[f"{name}-{stage.name}" for name, stage in STAGES])


def source_of(stage: Stage) -> ShardSource:
    return open_source(stage.data)


def built(stage: Stage) -> Task:
    assert not stage.needs, "stages with upstream need their upstream trained first"
    torch.manual_seed(0)
    source = source_of(stage)
    task = stage.task.build(source.spec, {})
    task.prepare(source)
    return task.train()


def batch_of(stage: Stage, task: Task, size: int = 16, *, train: bool = True) -> Batch:
    return next(source_of(stage).batches("train", size, rank=0, world=1, seed=0, start=0, transform=task.transform(train)))


@every_stage
def test_config_round_trips(recipe: str, stage: Stage) -> None:
    for one in (*registry.load(recipe).stages, stage):
        for config in (one.task, one.data, one.train):
            assert from_json(type(config), to_json(config)) == config


@every_stage
def test_recipe_says_what_it_is(recipe: str, stage: Stage) -> None:
    text = registry.describe(recipe)
    assert "`" in text, "the docstring gives the command"
    assert len(text.splitlines()[0]) > 20


@every_stage
def test_each_phase_is_finite_and_reaches_its_player_and_no_other(recipe: str, stage: Stage) -> None:
    task = built(stage)
    batch = batch_of(stage, task)
    players = strategies.Players(task)
    for phase in task.phases:
        players.turn_to(phase.player)
        task.zero_grad(set_to_none=True)
        loss, metrics = task.loss(phase.name, batch, Step(0, 10))
        assert loss.shape in ((), batch["weight"].shape)
        assert loss.isfinite().all()
        assert all(value.isfinite().all() for value in metrics.values())
        weighted_mean(loss, batch).backward()
        mine = {id(p) for p in players.weights[phase.player].values()}
        assert mine
        for name, p in task.named_parameters():
            assert (p.grad is not None) == (id(p) in mine), name


@every_stage
def test_overfits_eight_samples(recipe: str, stage: Stage) -> None:
    task = built(stage)
    batch = batch_of(stage, task, 8, train=False)
    strategy = strategies.choose("single", CPU)
    strategy.setup(task, replace(stage.train, optim=replace(stage.train.optim, warmup_steps=0, schedule="constant")))
    losses = [strategy.run_phase(phase, [batch], Step(i, 60)).metrics["loss"].item() for i in range(60) for phase in task.phases[:1]]
    assert losses[-1] < 0.7 * losses[0]


def run(folder: Path, recipe: str, stage: Stage, **options: object) -> Path:
    one = replace(stage, train=replace(stage.train, trackers=(), **options))
    return fit(one, recipe=recipe, source=source_of(one), folder=folder, device=CPU)


# Adam turns the rounding of a gradient that is zero in theory (a bias of attention keys) into a full step, so sums in another order part
PLAIN = OptimConfig(name="sgd", learning_rate=1e-2)


def run_two(root: Path) -> None:
    for recipe, stage in STAGES:
        for strategy in ("ddp", "zero1", "zero2", "zero3"):
            run(root / f"{recipe}-{stage.name}-{strategy}", recipe, stage, strategy=strategy, optim=PLAIN)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("contract")
    for recipe, stage in STAGES:
        source_of(stage)  # built-in data is made once, before two processes want it
        run(root / f"{recipe}-{stage.name}-one", recipe, stage, keep_checkpoints=9)
        run(root / f"{recipe}-{stage.name}-plain", recipe, stage, optim=PLAIN)
    run_ranks(2, run_two, root)
    return root


@every_stage
@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_two_processes_equal_one(runs: Path, recipe: str, stage: Stage, strategy: str) -> None:
    final = Path("checkpoints", checkpoint.step_name(stage.train.steps))
    one, two = (checkpoint.load_weights(runs / f"{recipe}-{stage.name}-{how}" / final) for how in ("plain", strategy))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5)


@every_stage
def test_resume_at_k_equals_uninterrupted(runs: Path, recipe: str, stage: Stage, tmp_path: Path) -> None:
    whole = runs / f"{recipe}-{stage.name}-one"
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / checkpoint.step_name(stage.train.steps))
    final = run(tmp_path / "run", recipe, stage, keep_checkpoints=9)
    expected = checkpoint.load_weights(whole / "checkpoints" / final.name)
    assert all(torch.equal(checkpoint.load_weights(final)[name], value) for name, value in expected.items())


@every_stage
def test_same_seed_same_weights_other_seed_others(runs: Path, recipe: str, stage: Stage, tmp_path: Path) -> None:
    steps = stage.train.checkpoint_every_steps
    expected = checkpoint.load_weights(runs / f"{recipe}-{stage.name}-one" / "checkpoints" / checkpoint.step_name(steps))
    same, other = (checkpoint.load_weights(run(tmp_path / str(seed), recipe, stage, seed=seed, steps=stage.train.steps)) for seed in (0, 1))
    final = checkpoint.load_weights(runs / f"{recipe}-{stage.name}-one" / "checkpoints" / checkpoint.step_name(stage.train.steps))
    assert all(torch.equal(same[name], value) for name, value in final.items())
    assert any(not torch.equal(other[name], value) for name, value in final.items())
    assert any(not torch.equal(expected[name], value) for name, value in final.items())


@every_stage
def test_bf16_learns_the_same(runs: Path, recipe: str, stage: Stage, tmp_path: Path) -> None:
    final = checkpoint.load_weights(run(tmp_path, recipe, stage, precision="bf16"))
    expected = checkpoint.load_weights(runs / f"{recipe}-{stage.name}-one" / "checkpoints" / checkpoint.step_name(stage.train.steps))
    moved = {name for name, value in expected.items() if value.is_floating_point() and value.dim() > 0}
    assert all(final[name].dtype == torch.float32 for name in moved)
    distance = sum((final[name] - expected[name]).square().sum() for name in moved) / sum(expected[name].square().sum() for name in moved)
    assert distance < 0.01


@every_stage
def test_actions_are_typed_and_say_what_comes_out(recipe: str, stage: Stage) -> None:
    for action in type(built(stage)).actions():
        hints = typing.get_type_hints(action.method)
        arguments = [p for p in inspect.signature(action.method).parameters.values() if p.name != "self"]
        assert all(p.kind is p.KEYWORD_ONLY and p.name in hints for p in arguments), action.name
        assert "return" in hints
        assert action.doc


@every_stage
def test_loaded_task_gives_the_same_output_and_exports(runs: Path, recipe: str, stage: Stage, tmp_path: Path) -> None:
    final = runs / f"{recipe}-{stage.name}-one" / "checkpoints" / checkpoint.step_name(stage.train.steps)
    one, two = checkpoint.load_task(final), checkpoint.load_task(final)
    batch = batch_of(stage, one, train=False)
    for phase in one.phases:
        a, b = (task.loss(phase.name, batch, Step(0, 1))[0] for task in (one, two))
        assert torch.equal(a, b)
    scores = one.assess(source_of(stage), tmp_path)
    assert all(isinstance(value, float) for value in scores.values())
    one.export(tmp_path / "export")
