"""What every recipe promises, asked of all in the registry."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from genlib import checkpoint, companions, registry
from genlib.config import OptimConfig, from_json, to_json
from genlib.data.source import ShardSource
from genlib.encoded_batch import encoded
from genlib.engine.prefetcher import with_weight
from genlib.engine.sharded_init import ShardedInit
from genlib.engine.strategies import strategy_of
from genlib.engine.strategy import Players
from genlib.models.representation.clip import CLIPConfig
from genlib.models.representation.simclr import SimCLRConfig
from genlib.recipe import STRATEGIES, Stage, strategy_refusal
from genlib.task import Task, weighted_mean
from genlib.types import Batch, DataSpec, Step
from tests.models.stages import CPU, metrics, source_of, train_stage
from tests.processes import run_ranks


@dataclass(frozen=True)
class Case:
    """A stage of a recipe's smoke form."""

    recipe: str
    stage: Stage
    needs: dict[str, str]
    """Label of each earlier stage that it needs, by stage name."""


def all_stages() -> dict[str, Case]:
    """The smoke stages of all recipes by label; those of the same settings on the same earlier stages once."""
    found: dict[str, Case] = {}
    labels: dict[str, str] = {}
    for recipe in registry.RECIPES:
        here: dict[str, str] = {}
        for stage in registry.load(recipe).smoke:
            needs = {name: here[name] for name in stage.needs.values()}
            lineage = repr((stage.task, stage.data, stage.train, stage.needs, needs))
            here[stage.name] = labels.setdefault(lineage, f"{recipe}-{stage.name}")
            found.setdefault(here[stage.name], Case(recipe, stage, needs))
    return found


STAGES = all_stages()
ENGINE = ("clip_tiny-train", "ddpm-train", "rbm-train", "vae-train", "wgan_gp-train")
"""Stages for what is the engine's to keep, whatever the family: towers, noise and an average of weights, a rule without gradient, two players."""

LIKE_OTHERS = ("sdxl-text_2", "ldm_sd2-text", "ldm_sd2-denoiser", "sd3_medium-text_2")
"""Stages with the networks and losses of SDXL's, in other sizes: slow tests."""


def stages(labels: Iterable[str], slow: Sequence[str] = ()) -> pytest.MarkDecorator:
    """The test once a stage; those of one recipe run in one process, which trains each of its stages once."""
    marks = {
        label: [pytest.mark.xdist_group(f"contract {STAGES[label].recipe}"), *([pytest.mark.slow] if label in (*LIKE_OTHERS, *slow) else [])]
        for label in labels
    }
    return pytest.mark.parametrize("label", [pytest.param(label, marks=chosen) for label, chosen in marks.items()])


every_recipe = pytest.mark.parametrize("recipe", registry.RECIPES)
every_stage, engine_stages = stages(STAGES), stages(ENGINE)
fast_of_the_engine = stages(STAGES, slow=[label for label in STAGES if label not in ENGINE])
"""What the engine keeps for every kind of learner (tests/engine): of the others a slow test."""


class Runs:
    """Runs of stages in one folder, made when they are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def upstream(self, label: str) -> dict[str, Path]:
        """The final checkpoints of what a stage needs, by stage name."""
        return {name: self.whole(earlier) for name, earlier in STAGES[label].needs.items()}

    def whole(self, label: str) -> Path:
        """The final checkpoint of a run as the recipe says; the folder keeps all checkpoints."""
        return self.train(label, self.root / f"{label}-whole", keep_checkpoints=9)

    def plain(self, label: str) -> Path:
        """The same by plain gradient descent."""
        return self.train(label, self.root / f"{label}-plain", optim=PLAIN)

    def train(self, label: str, folder: Path, **options: object) -> Path:
        """The final checkpoint of a run in that folder, with other options."""
        return train_stage(STAGES[label].recipe, STAGES[label].stage, folder, self.upstream(label), **options)

    def built(self, label: str, sharded: ShardedInit | None = None) -> Task:
        """The task as it is before training, in train mode."""
        stage, upstream = STAGES[label].stage, self.upstream(label)
        tasks = {role: checkpoint.load_task(upstream[name]) for role, name in stage.needs.items()}
        torch.manual_seed(0)
        source = source_of(stage)
        with sharded or nullcontext():
            task = stage.task.build(source.spec, tasks)
            task.prepare(source)
        return task.train()

    def trained(self, label: str) -> Path:
        """As `whole`; skips the test where the stage has nothing to train."""
        final = self.whole(label)
        if not checkpoint.read_manifest(final).steps:
            pytest.skip("the stage trains nothing")
        return final


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("contract"))


class Few:
    """A source with its first held-out samples alone: enough to see that a task is assessed, too few for what that says."""

    def __init__(self, source: ShardSource, samples: int = 64) -> None:
        self.source, self.samples = source, samples

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def captions(self, split: str, most: int) -> Iterator[str]:
        return self.source.captions(split, min(most, self.samples))

    def batches(self, split: str, size: int, **options: Any) -> Iterator[Batch]:
        left = self.samples if split == "validation" else sys.maxsize
        for batch in self.source.batches(split, size, **options):
            yield {name: value[:left] for name, value in batch.items()}
            left -= size
            if left <= 0:
                return


@torch.no_grad()
def check_sheet(task: Task, label: str, drawn_at_the_end: bool, path: Path) -> None:
    """What leaves pictures at its end has one to draw on the way too, which changes no weight and asks for no chance."""
    before, chance = {name: value.clone() for name, value in task.state_dict().items()}, torch.get_rng_state()
    companions.sheet(task, Few(source_of(STAGES[label].stage)), path)  # type: ignore[arg-type]
    assert path.exists() == drawn_at_the_end
    assert all(value.equal(before[name]) for name, value in task.state_dict().items())
    assert torch.get_rng_state().equal(chance)


def batch_of(label: str, task: Task, size: int = 16, *, train: bool = True) -> Batch:
    batches = source_of(STAGES[label].stage).batches("train", size, transform=task.transform(train))
    return encoded(task, with_weight(next(batches), size))


@every_recipe
def test_config_round_trips(recipe: str) -> None:
    found = registry.load(recipe)
    for one in (*found.stages, *found.smoke):
        for config in (one.task, one.data, one.train):
            assert from_json(type(config), to_json(config)) == config


@every_recipe
def test_recipe_says_what_it_is(recipe: str) -> None:
    text = registry.describe(recipe)
    assert "`" in text, "the docstring gives the command"
    assert len(text.splitlines()[0]) > 20


@every_stage
def test_each_phase_is_finite_and_reaches_its_player_and_no_other(runs: Runs, label: str) -> None:
    task = runs.built(label)
    batch = batch_of(label, task)
    players = Players(task)
    reached = reached_by_phases(task, players, batch, Step(0, 10))
    while task.grows:  # later steps reach more
        with torch.no_grad():
            task.after_step(Step(0, 10))
        reached |= reached_by_phases(task, players, batch, Step(0, 10))
    assert [name for name, p in players.by_state_name if id(p) not in reached] == []


def reached_by_phases(task: Task, players: Players, batch: Batch, step: Step) -> set[int]:
    """The ids of all weights that the phases of a step give gradients."""
    reached: set[int] = set()
    for phase in task.phases:
        players.select(phase.player)
        task.zero_grad(set_to_none=True)
        loss, metrics = task.loss(phase.name, batch, step)
        assert loss.shape in ((), batch["valid"].shape)
        assert loss.isfinite().all()
        assert all(value.isfinite().all() for value in metrics.values())
        with torch.autocast("cpu", torch.bfloat16):
            assert task.loss(phase.name, batch, step)[0].isfinite().all(), "in bf16"
        weighted_mean(loss, batch).backward()
        mine = {id(p) for p in players.weights[phase.player].values()}
        assert mine
        learns = {name for name, p in task.named_parameters() if p.grad is not None}
        assert learns
        assert all(id(p) in mine for name, p in task.named_parameters() if name in learns), phase.name
        reached |= {id(task.get_parameter(name)) for name in learns}
    return reached


@every_stage
@pytest.mark.parametrize("spec", [DataSpec(), DataSpec(vector_size=3), DataSpec(image_size=2)], ids=["neither", "vectors", "2 pixels"])
def test_data_that_no_task_is_built_for_is_refused_before(runs: Runs, label: str, spec: DataSpec) -> None:
    config, spec = STAGES[label].stage.task, replace(spec, num_samples=16)
    tasks = {role: checkpoint.load_task(runs.upstream(label)[name]) for role, name in STAGES[label].stage.needs.items()}
    try:
        config.build(spec, tasks)
    except ValueError:
        with pytest.raises(ValueError, match=r"\w"):
            config.check_data(spec)
    else:
        config.check_data(spec)


AGAINST_ITSELF = ("moco-train",)


@every_stage
def test_overfits_eight_samples(runs: Runs, label: str) -> None:
    task, stage = runs.built(label), STAGES[label].stage
    if not task.phases:
        pytest.skip("the stage trains nothing")
    if label in AGAINST_ITSELF:
        pytest.skip("the loss asks it to tell samples from themselves, seen before")
    batch = batch_of(label, task, 8, train=False)
    strategy = strategy_of("single", CPU)
    strategy.setup(task, replace(stage.train, optim=replace(stage.train.optim, warmup_steps=0, schedule="constant")))
    losses: list[float] = []
    while len(losses) < 60 and not (losses and losses[-1] < 0.5 * losses[0]):
        step = Step(len(losses), 60)
        losses.append(strategy.run_phase(task.phases[0], [batch], step).metrics["loss"].item())
        strategy.after_step(step)
    assert losses[-1] < 0.7 * losses[0]


# Adam turns the rounding of a gradient that is zero in theory (a bias of attention keys) into a full step, so sums in another order part
PLAIN = OptimConfig(name="sgd", learning_rate=1e-2)
# tests/engine asks all of eight kinds
SHARED = tuple(pytest.param(name, marks=pytest.mark.slow if name != "zero1" else ()) for name in STRATEGIES if name != "single")


@fast_of_the_engine
@pytest.mark.parametrize("strategy", SHARED)
def test_two_processes_equal_one(runs: Runs, label: str, strategy: str, tmp_path: Path) -> None:
    final = Path("checkpoints", runs.trained(label).name)
    one = checkpoint.load_weights(runs.plain(label))
    case = STAGES[label]
    train = partial(train_stage, case.recipe, case.stage, tmp_path, runs.upstream(label), strategy=strategy, optim=PLAIN)
    if reason := strategy_refusal(case.stage.task, strategy, 2):
        with pytest.raises(Exception, match=re.escape(reason)):
            run_ranks(2, train)
        assert not list(tmp_path.glob("checkpoints/step_*")), "before it begins"
        return
    run_ranks(2, train)
    two = checkpoint.load_weights(tmp_path / final)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5)


@every_stage
@pytest.mark.slow
def test_weights_sharded_as_they_are_made_are_those_of_one_process(runs: Runs, label: str) -> None:
    plain, drawn = runs.built(label), torch.rand(1)
    sharded = ShardedInit(CPU, whole_elements=1_000, small_elements=64)
    task = runs.built(label, sharded)
    assert torch.equal(torch.rand(1), drawn)
    for weight in task.parameters():
        sharded.hand_over(weight)
    sharded.hand_over_rest()
    for (name, value), other in zip(plain.state_dict().items(), task.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


JOINT = tuple(label for label, case in STAGES.items() if type(case.stage.task) in (CLIPConfig, SimCLRConfig))


@fast_of_the_engine
def test_micro_batches_learn_what_the_whole_batch_does_or_the_task_says_what_they_do(runs: Runs, label: str, tmp_path: Path) -> None:
    runs.trained(label)
    task = runs.built(label)
    effect, joint = task.accumulation_effect, any(phase.joint for phase in task.phases)
    assert joint == (label in JOINT)
    split = runs.train(label, tmp_path, optim=PLAIN, accumulation=4)
    # equality at the first checkpoint: where a picture differs from its aim by rounding alone, L1's gradient has either sign, and later steps part;
    # a stated difference at the last, as a discriminator may join late
    compared = 0 if effect else -1
    whole, found = (checkpoint.load_weights(checkpoint.checkpoints(final.parent)[compared]) for final in (runs.plain(label), split))
    apart = [name for name, value in whole.items() if not torch.allclose(found[name], value, atol=1e-5, rtol=1e-5)]
    assert bool(apart) == bool(effect), apart


@stages(JOINT)
@pytest.mark.parametrize("strategy", SHARED)
def test_two_processes_in_micro_batches_equal_one_with_the_whole_batch(runs: Runs, label: str, strategy: str, tmp_path: Path) -> None:
    final = Path("checkpoints", runs.trained(label).name)
    case, options = STAGES[label], {"strategy": strategy, "optim": PLAIN, "accumulation": 4}
    run_ranks(2, partial(train_stage, case.recipe, case.stage, tmp_path, runs.upstream(label), **options))
    whole, split = checkpoint.load_weights(runs.plain(label)), checkpoint.load_weights(tmp_path / final)
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, atol=1e-5, rtol=1e-5)
    for before, after in zip(metrics(runs.plain(label).parents[1]), metrics(tmp_path), strict=True):
        assert after == pytest.approx(before, rel=1e-4, abs=1e-5)


def equal(one: Path, two: Path) -> bool:
    """Whether two checkpoints have the same weights."""
    weights = checkpoint.load_weights(one)
    return all(torch.equal(weights[name], value) for name, value in checkpoint.load_weights(two).items())


@every_stage
def test_resume_at_k_equals_uninterrupted(runs: Runs, label: str, tmp_path: Path) -> None:
    final = runs.trained(label)
    assert not equal(final, final.parent / checkpoint.step_name(STAGES[label].stage.train.checkpoint_every_steps)), "it trains to the end"
    shutil.copytree(final.parents[1], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / final.name)
    assert equal(runs.train(label, tmp_path / "run", keep_checkpoints=9), final)
    assert metrics(tmp_path / "run") == metrics(final.parents[1])


@engine_stages
def test_same_seed_same_weights_other_seed_others(runs: Runs, label: str, tmp_path: Path) -> None:
    final = runs.trained(label)
    same, other = (runs.train(label, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert equal(same, final)
    assert not equal(other, final)
    rows, again, others = (metrics(path.parents[1]) for path in (final, same, other))
    assert rows == again
    assert rows != others


@engine_stages
def test_bf16_learns_the_same(runs: Runs, label: str, tmp_path: Path) -> None:
    expected = checkpoint.load_weights(runs.trained(label))
    final = checkpoint.load_weights(runs.train(label, tmp_path, precision="bf16"))
    moved = {name for name, value in expected.items() if value.is_floating_point() and value.dim() > 0}
    assert all(final[name].dtype == torch.float32 for name in moved)
    distance = sum((final[name] - expected[name]).square().sum() for name in moved) / sum(expected[name].square().sum() for name in moved)
    assert distance < 0.01


@every_stage
def test_actions_have_ports_and_say_what_comes_out(runs: Runs, label: str) -> None:
    task = checkpoint.load_task(runs.whole(label))
    for action in type(task).actions():  # raises where a port is missing
        assert all(one.kind is one.KEYWORD_ONLY for one in inspect.signature(getattr(task, action.name)).parameters.values()), action.name
        assert action.doc


@every_stage
def test_held_out_samples_have_the_score_that_a_search_ranks_by(runs: Runs, label: str) -> None:
    task = checkpoint.load_task(runs.whole(label))
    if not task.phases:
        pytest.skip("the stage trains nothing")
    with torch.no_grad():
        values = task.evaluate(batch_of(label, task, train=False))
    name, mode = task.objective
    assert values[name].float().mean().isfinite()
    assert mode in ("min", "max")
    assert isinstance(task.divergence_reason({name: value.float().mean().item() for name, value in values.items()}), str)


@every_stage
def test_loaded_task_gives_the_same_output_and_exports(runs: Runs, label: str, tmp_path: Path) -> None:
    final = runs.whole(label)
    one, two = checkpoint.load_task(final), checkpoint.load_task(final)
    batch = batch_of(label, one, train=False)
    for phase in one.phases:
        a, b = (task.loss(phase.name, batch, Step(0, 1))[0] for task in (one, two))
        assert torch.equal(a, b)
    scores = companions.assess(one, Few(source_of(STAGES[label].stage)), tmp_path)  # type: ignore[arg-type]
    assert all(isinstance(value, float) for value in scores.values())
    check_sheet(one, label, any(tmp_path.glob("*.png")), tmp_path / "alone" / "sheet.png")
    companions.export(one, tmp_path / "export")
