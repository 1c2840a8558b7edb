"""AdamW with state of 8 bits: the library's own loop, the same weights under every strategy, and codes that go on as they were saved."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from genlib import checkpoint
from genlib.companions import Companions
from genlib.config import OptimConfig, TaskConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.engine.memory_plan import Parallelism, estimate_memory
from genlib.engine.optim import make_optimizer, parameter_groups, state_elements
from genlib.engine.single import SingleDevice
from genlib.engine.trace import FakeTask
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step
from tests.every_strategy import STRATEGIES
from tests.processes import run_ranks
from tests.tiny import FEATURES, ArraySource

STEPS, CUT, BATCH, WIDE = 4, 2, 24, 163
"""A weight of 32 x 163 ends in the midst of a block."""
OPTIM = OptimConfig(name="adamw_8bit", learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
OTHERWISE = 1e-4
"""A tenth of an update: a sum in another order may give a number of the state another of the 256 codes. 2.5e-7 was the most here."""


class Wide(Task):
    companions = Companions(example="tests.engine.test_eight_bit:example")

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, WIDE), nn.Tanh(), nn.Linear(WIDE, FEATURES))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return (self.net(batch["x"]) - batch["x"]).square().sum(1), {}


def example(task: Task, size: int) -> Batch:
    return {"x": torch.zeros(size, FEATURES)}


@dataclass(frozen=True, kw_only=True, slots=True)
class WideConfig(TaskConfig):
    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Wide:
        return Wide()


def train(folder: Path, strategy: str) -> Path:
    settings = TrainConfig(
        steps=STEPS, global_batch=BATCH, checkpoint_every_steps=CUT, keep_checkpoints=9, trackers=(), optim=OPTIM, strategy=strategy
    )  # fmt: skip
    stage = Stage(task=WideConfig(), train=settings)
    return fit(stage, recipe="wide", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def weights(folder: Path) -> dict[str, Tensor]:
    return checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(STEPS))


def train_whole(root: Path) -> None:
    for strategy in STRATEGIES:
        train(root / strategy, strategy)


def resume_all(root: Path) -> None:
    for strategy in STRATEGIES:
        for origin in ("same", "other"):
            train(root / f"{strategy}-{origin}", strategy)


def cut_off(whole: Path, folder: Path) -> None:
    """A copy of a run as it was after half of its steps."""
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / checkpoint.step_name(STEPS))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes")
    root = tmp_path_factory.mktemp("eight")
    train(root / "single", "single")
    run_ranks(2, train_whole, root)
    for strategy, other in zip(STRATEGIES, ("zero3", "single", "ddp", "zero2"), strict=True):
        cut_off(root / strategy, root / f"{strategy}-same")
        cut_off(root / other, root / f"{strategy}-other")
    cut_off(root / "zero1", root / "single-other")
    train(root / "single-other", "single")
    cut_off(root / "zero3", root / "three")
    run_ranks(2, resume_all, root)
    run_ranks(3, train, root / "three", "zero3")
    return root


def test_one_process_does_as_the_library_does(tmp_path: Path) -> None:
    AdamW8bit = pytest.importorskip("bitsandbytes").optim.AdamW8bit
    final = train(tmp_path, "single")
    torch.manual_seed(0)
    task, batches = Wide(), ArraySource().batches("train", BATCH)
    large, small = ([p for p in task.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False))
    optimizers = AdamW8bit(large, 1e-3, weight_decay=0.1), torch.optim.AdamW(small, 1e-3, weight_decay=0.0)
    for index in range(STEPS):
        task.zero_grad()
        task.loss("train", next(batches), Step(index, STEPS))[0].mean().backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
    for name, value in checkpoint.load_weights(final).items():
        torch.testing.assert_close(value, task.state_dict()[name], atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_are_near_to_one(root: Path, strategy: str) -> None:
    for name, value in weights(root / "single").items():
        torch.testing.assert_close(weights(root / strategy)[name], value, atol=OTHERWISE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_ends_with_the_same_weights(root: Path, strategy: str) -> None:
    whole, same = weights(root / strategy), weights(root / f"{strategy}-same")
    assert all(torch.equal(same[name], value) for name, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("run", [*(f"{strategy}-other" for strategy in (*STRATEGIES, "single")), "three"])
def test_one_that_goes_on_under_another_strategy_is_near_to_it(root: Path, run: str) -> None:
    for name, value in weights(root / "single").items():
        torch.testing.assert_close(weights(root / run)[name], value, atol=OTHERWISE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["single", *STRATEGIES])
def test_a_checkpoint_has_the_codes_and_scales_of_large_weights_and_plain_state_of_small_ones(root: Path, strategy: str) -> None:
    found: dict[str, tuple[str, int]] = {}
    for path in sorted((root / strategy / "checkpoints" / checkpoint.step_name(STEPS) / "state").glob("rank_*.safetensors")):
        with safe_open(path, "pt") as file:
            for entry in file.keys():  # noqa: SIM118
                name, piece = entry.partition("@")[0], file.get_slice(entry)
                found[name] = (piece.get_dtype(), found.get(name, ("", 0))[1] + piece.get_shape()[0])
    numel = FEATURES * WIDE
    large = {"step": ("F32", 1), **{f"state{n}": ("U8", numel) for n in (1, 2)}, **{f"absmax{n}": ("F32", -(-numel // 256)) for n in (1, 2)}}
    for layer, size in (("0", WIDE), ("2", FEATURES)):
        assert {name.rpartition("/")[2]: facts for name, facts in found.items() if name.startswith(f"net/{layer}.weight/")} == large
        small = {"step": ("F32", 1), "exp_avg": ("F32", size), "exp_avg_sq": ("F32", size)}
        assert {name.rpartition("/")[2]: facts for name, facts in found.items() if name.startswith(f"net/{layer}.bias/")} == small


def test_the_plan_counts_the_bytes_that_there_are() -> None:
    pytest.importorskip("bitsandbytes")
    task, strategy = Wide(), SingleDevice(torch.device("cpu"))
    strategy.setup(task, TrainConfig(optim=OPTIM, trackers=()))
    batch = next(ArraySource().batches("train", 8))
    strategy.run_phase(task.phases[0], [{**batch, "weight": batch["valid"].float()}], Step(0, 1))
    kept = sum(shard.tensor.nbytes for shard in strategy.optimizer_shards() if not shard.name.endswith("/step"))
    planned = estimate_memory(FakeTask(Wide), TrainConfig(optim=OPTIM), 8)
    assert planned.at(Parallelism("single"), 1, 8).parts["optimizer"] == pytest.approx(kept, abs=8)
    assert kept < 0.28 * 8 * sum(p.numel() for p in task.parameters()), "of what adamw keeps"


def test_small_weights_and_embeddings_stay_with_adamw() -> None:
    class Words(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.ModuleDict({"words": nn.Embedding(100, 64), "line": nn.Linear(64, 64), "short": nn.Linear(64, 63)})

    task = Words()
    groups = parameter_groups(task, dict(task.net.named_parameters()), OPTIM)
    assert [(group["name"], group["weight_decay"], len(group["params"])) for group in groups] == [
        ("adamw", 0.1, 2), ("adamw", 0.0, 2), ("adamw_8bit", 0.1, 1)
    ]  # fmt: skip
    assert state_elements("adamw_8bit", task.net["line"].weight, OPTIM) * 4 == 2 * 4096 + 2 * 16 * 4


def test_it_descends() -> None:
    pytest.importorskip("bitsandbytes")
    weight = nn.Parameter(torch.ones(64, 64))
    optimizer = make_optimizer([{"params": [weight], "weight_decay": 0.0}], OptimConfig(name="adamw_8bit", learning_rate=0.1))
    for _ in range(4):
        optimizer.zero_grad()  # type: ignore[union-attr]
        weight.square().sum().backward()
        optimizer.step()
    assert weight.abs().max() < 0.8


def test_without_its_library_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.delitem(sys.modules, "genlib.engine.eight_bit", raising=False)
    with pytest.raises(
        ValueError, match=r"train.optim.name adamw_8bit needs bitsandbytes.*, which is not installed; .*genlib\[8bit\].*, or use adamw"
    ):
        make_optimizer([{"params": [nn.Parameter(torch.ones(2, 2))], "weight_decay": 0.0}], OPTIM)
