"""Weights that are sharded from the moment they are made are those of one process, whatever constructors do to them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genlib import checkpoint, distributed
from genlib.companions import Companions
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.engine.sharded_init import ShardedInit
from genlib.engine.trace import FakeTask, flops_per_sample
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import Batch, DataSource, Metrics, Step
from tests.processes import run_ranks
from tests.tiny import ArraySource, TinyConfig

CPU = torch.device("cpu")
LIMIT, SMALL = 5_000, 1_000


class Odd(nn.Module):
    """Does what constructors of the field do, of which much comes after the constructor of the module that has the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.words = nn.Embedding(100, 64, padding_idx=0)
        self.teacher = copy.deepcopy(self.first).requires_grad_(False)
        self.apply(lambda module: nn.init.orthogonal_(module.weight) if isinstance(module, nn.Linear) else None)
        with torch.no_grad():
            self.words.weight.mul_(2)
            self.words.weight[3] = 7
            self.second.weight.data.copy_(self.first.weight.data + 1)
        self.out = nn.Linear(64, 100, bias=False)
        self.out.weight = self.words.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
        self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("basis", torch.linalg.qr(self.first.weight.detach())[0])


def made(sharded: ShardedInit | None = None) -> Odd:
    torch.manual_seed(0)
    if sharded is None:
        return Odd()
    with sharded:
        return Odd()


def handed_over(sharded: ShardedInit, module: nn.Module) -> dict[str, Tensor]:
    for weight in module.parameters():
        sharded.hand_over(weight)
    sharded.hand_over_rest()
    return module.state_dict()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_weights_and_generator_are_those_of_one_process() -> None:
    plain, drawn = made().state_dict(), torch.rand(1)
    sharded = ShardedInit(CPU, LIMIT, SMALL)
    module = made(sharded)
    assert torch.equal(torch.rand(1), drawn)
    assert sharded.is_apart(module.first.weight)
    assert module.first.weight.shape == (64, 64)
    assert module.first.weight.isnan().all(), "whoever reads it outside is told"
    assert not sharded.is_apart(module.scale)
    assert_same(handed_over(sharded, module), plain)


def test_a_view_that_is_held_and_written_to_counts() -> None:
    sharded = ShardedInit(CPU, 0, SMALL)
    with sharded:
        one = nn.Linear(64, 64, bias=False)
        view = one.weight.data
        other = nn.Linear(64, 64, bias=False)
        assert sharded.is_apart(one.weight)
        view.fill_(3)
        assert other.weight.isfinite().all()
        assert one.weight.detach().eq(3).all()
        assert sharded.shard_of(one.weight) is None, "what is filled has to reach the view"
        del view
    shard = sharded.shard_of(one.weight)
    assert shard is not None
    assert shard.eq(3).all()
    assert handed_over(sharded, one)["weight"].eq(3).all()


def test_what_was_there_before_stays_as_it_is() -> None:
    before = nn.Linear(64, 64)
    sharded = ShardedInit(CPU, 0, SMALL)
    sharded.keep_whole(before.parameters())
    with sharded:
        nn.Linear(64, 64)(before(torch.ones(1, 64)))
    assert before.weight.isfinite().all()


class OddTask(Task):
    """Its loss is that of what `Odd` does to words."""

    companions = Companions(example="tests.engine.test_sharded_init:example")

    def __init__(self) -> None:
        super().__init__()
        self.net = Odd()

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        x = self.net.first(self.net.words(batch["words"]))
        weight = self.net.second.weight.view(-1).view(64, 64)
        return (self.net.blocks(x) @ weight).square().mean((1, 2)), {}


def example(task: Task, size: int) -> Batch:
    return {"words": torch.zeros(size, 5, dtype=torch.long)}


def test_operations_are_counted_before_weights_are_whole() -> None:
    plain = OddTask()
    sharded = ShardedInit(CPU, LIMIT, SMALL)
    with sharded:
        apart = OddTask()
    assert sharded.is_apart(apart.net.second.weight)
    assert flops_per_sample(FakeTask.of(apart), 4, "fp32") == flops_per_sample(FakeTask.of(plain), 4, "fp32")


def in_ranks(expected: Path) -> None:
    plain = torch.load(expected, weights_only=True)
    sharded = ShardedInit(CPU, LIMIT, SMALL)
    module = made(sharded)
    for weight in dict.fromkeys(module.parameters()):
        shard = sharded.shard_of(weight)
        if weight.numel() < SMALL:
            assert shard is None
        else:
            low, high = distributed.share(weight.numel(), distributed.rank(), distributed.world_size())
            assert shard is not None
            assert shard.numel() == high - low
    assert len({tuple(sums) for sums in distributed.all_gather_object(sharded.sums())}) == 1
    with sharded, torch.no_grad():
        module.first.weight[0, 0] = 5.0  # touched again by all ranks
    state = handed_over(sharded, module)
    assert state["first.weight"][0, 0] == 5.0
    state["first.weight"][0, 0] = plain["first.weight"][0, 0]
    assert_same(state, plain)


def test_ranks_hold_shares_and_have_the_weights_of_one_process(tmp_path: Path) -> None:
    torch.save(made().state_dict(), tmp_path / "plain")
    run_ranks(3, in_ranks, tmp_path / "plain")


def stage(kind: str = "VAE", **train: object) -> Stage:
    defaults = {"steps": 4, "global_batch": 24, "ema_halflife_samples": 48, "trackers": (), "checkpoint_every_steps": 2, "keep_checkpoints": 9}
    return Stage(task=TinyConfig(kind=kind), train=TrainConfig(**{**defaults, **train}))


def train(folder: Path, one: Stage) -> None:
    fit(one, recipe="tiny", source=ArraySource(), folder=folder, device=CPU)


@pytest.mark.parametrize("strategy", ["zero3", "zero1"])
def test_what_a_run_starts_from_is_sliced_and_the_same(tmp_path: Path, strategy: str) -> None:
    train(tmp_path / "donor", stage(seed=3))
    weights = {}
    for name, world in (("alone", 1), ("together", 3)):
        one = stage(steps=1, start_from=str(tmp_path / "donor"), optim=OptimConfig(name="sgd", learning_rate=0.0), strategy=strategy)
        run_ranks(world, train, tmp_path / name, one)
        weights[name] = checkpoint.load_weights(tmp_path / name / "checkpoints" / checkpoint.step_name(1))
    assert_same(weights["together"], weights["alone"])
    donor = checkpoint.load_weights(tmp_path / "donor" / "checkpoints" / checkpoint.step_name(4), ema=True)
    assert_same(weights["together"], donor)


class Still(Task):
    """Trains nothing."""

    phases = ()

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 64)


class StillConfig(TinyConfig):
    def build(self, data: object, upstream: object) -> Task:
        return Still()


def test_a_task_that_trains_nothing_is_saved_as_it_was_built(tmp_path: Path) -> None:
    train_config = TrainConfig(global_batch=24, trackers=(), strategy="zero3")
    run_ranks(2, train, tmp_path, Stage(task=StillConfig(), train=train_config))
    torch.manual_seed(0)
    assert_same(checkpoint.load_weights(tmp_path / "checkpoints" / checkpoint.step_name(0)), Still().state_dict())


class Uneven(Task):
    """Its `prepare` draws something else on each rank."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 64)

    def prepare(self, source: DataSource) -> None:
        nn.init.constant_(self.net.weight, float(distributed.rank()))


class UnevenConfig(TinyConfig):
    def build(self, data: object, upstream: object) -> Task:
        return Uneven()


def test_other_values_on_another_rank_are_told(tmp_path: Path) -> None:
    one = Stage(task=UnevenConfig(), train=TrainConfig(steps=1, global_batch=4, trackers=(), strategy="zero3"))
    with pytest.raises(Exception, match="gave different values on different ranks"):
        run_ranks(2, train, tmp_path, one)
