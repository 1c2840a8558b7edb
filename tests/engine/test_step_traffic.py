"""What a step sends: as the plan says, in bf16 where it may be, and with no more than rounding between it and one process."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from genlib import checkpoint
from genlib.companions import Companions
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.engine.step_traffic import StepTraffic, step_traffic
from genlib.engine.strategies import strategy_of
from genlib.engine.trace import FakeTask
from genlib.recipe import Stage
from genlib.task import Phase, Task
from genlib.types import Batch, Metrics, Step
from tests.processes import run_ranks
from tests.tiny import KINDS, ArraySource, TinyConfig
from tests.wire import CountedBytes

WIDTH, ROWS = 512, 4
LOW = {"precision": "bf16"}
MUON = OptimConfig(name="muon")
WAYS: dict[str, dict[str, object]] = {"fp32": {}, "bf16": LOW, "bf16, added up in fp32": {**LOW, "reduction": "fp32"}}


def example(task: Task, size: int) -> Batch:
    return {"sample": torch.zeros(size, WIDTH)}


class Layers(Task):
    """More weights than ZeRO-3 keeps whole, some of them of no matrix."""

    companions = Companions(example="tests.engine.test_step_traffic:example")

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*(part for _ in range(12) for part in (nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return self.net(batch["sample"]).square().mean(1), {}


class Players(Layers):
    """Of which one hands gradients back to the other."""

    phases = (Phase(name="one", player="net"), Phase(name="other", player="head"))

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WIDTH, bias=False)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return self.head(self.net(batch["sample"])).square().mean(1), {}


def sent(kind: type[Task], strategy: str, accumulation: int, options: dict[str, object]) -> tuple[int, int, int]:
    """Bytes that a step gathers, adds up and sends to one rank."""
    made = strategy_of(strategy, torch.device("cpu"))
    with getattr(made, "sharded_init", None) or nullcontext():
        task = kind()
    config = TrainConfig(**{"strategy": strategy, "accumulation": accumulation, "global_batch": 2 * ROWS, **options})  # type: ignore[arg-type]
    made.setup(task.train(), config)
    batch = {"sample": torch.randn(ROWS, WIDTH), "valid": torch.ones(ROWS, dtype=torch.bool), "weight": torch.ones(ROWS)}
    for index in range(2):  # DeepSpeed asks ahead from its second step on
        with CountedBytes() as counted:
            for phase in task.phases:
                made.run_phase(phase, [batch] * accumulation, Step(index, 2, 0))
    return counted.gathered, counted.reduced, counted.sent


def count(folder: Path) -> None:
    """Rank 0 writes the bytes of a step, of each strategy, way and number of micro-batches."""
    found = {
        f"{strategy} {way} {accumulation}": sent(Layers, strategy, accumulation, options)
        for strategy in ("ddp", "zero1", "zero2", "zero3")
        for way, options in WAYS.items()
        for accumulation in (1, 2)
    } | {"players": sent(Players, "zero3", 1, {}), "muon": sent(Layers, "zero3", 1, {"optim": MUON})}
    if dist.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    folder = tmp_path_factory.mktemp("traffic")
    run_ranks(2, count, folder)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_a_step_sends_what_the_plan_says(found: dict[str, list[int]], strategy: str, way: str, accumulation: int) -> None:
    config = TrainConfig(**{"accumulation": accumulation, **WAYS[way]})  # type: ignore[arg-type]
    planned = step_traffic(FakeTask(Layers), config, strategy, 2)
    assert (planned.gathered, planned.reduced) == pytest.approx(found[f"{strategy} {way} {accumulation}"][:2], rel=0.1)


def test_of_several_players_a_step_sends_no_more_than_the_plan_says(found: dict[str, list[int]]) -> None:
    planned = step_traffic(FakeTask(Players), TrainConfig(), "zero3", 2)
    assert planned.reduced == pytest.approx(found["players"][1], rel=0.1)
    assert found["players"][0] <= planned.gathered <= 1.5 * found["players"][0]


def test_what_goes_to_the_rank_that_updates_a_whole_weight(found: dict[str, list[int]]) -> None:
    planned = step_traffic(FakeTask(Layers), TrainConfig(optim=MUON), "zero3", 2)
    assert planned.exchanged / 2 / 2 == pytest.approx(found["muon"][2], rel=0.1), "of two ranks each has half, and keeps half of that"


def test_bf16_halves_what_zero3_sends(found: dict[str, list[int]]) -> None:
    low, usual = (sum(found[f"zero3 {way} 1"][:2]) for way in ("bf16", "fp32"))
    assert low / usual < 0.55


def test_in_a_ring_an_all_reduce_is_a_reduction_and_a_gather() -> None:
    assert StepTraffic(0, 100).sent_bytes(4) == 150
    assert StepTraffic(100, 100, everywhere=False).sent_bytes(4) == 150
    assert StepTraffic(100, 100).sent_bytes(1) == 0


def stage(kind: str, **train: object) -> Stage:
    optim = OptimConfig(name="sgd", learning_rate=0.1)  # whose steps are as far from each other as gradients are
    defaults = {"steps": 6, "global_batch": 24, "checkpoint_every_steps": 0, "trackers": (), "optim": optim, "ema_halflife_samples": 48}
    return Stage(task=TinyConfig(kind=kind), train=TrainConfig(**{**defaults, **train}))  # type: ignore[arg-type]


def train(folder: Path, kind: str, strategy: str, **options: object) -> Path:
    return fit(stage(kind, strategy=strategy, **options), recipe="tiny", source=ArraySource(), folder=folder, device=torch.device("cpu"))


def train_low(root: Path) -> None:
    """Each kind in bf16 under each strategy."""
    for kind in LEARNERS:
        for strategy in ("zero2", "zero3"):
            for reduction in ("bf16", "fp32"):
                train(root / f"{kind}-{strategy}-{reduction}", kind, strategy, precision="bf16", reduction=reduction)


LEARNERS = ("VAE", "GAN", "Momentum")


@pytest.fixture(scope="module")
def low_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("low")
    for kind in LEARNERS:
        train(root / f"{kind}-single", kind, "single", precision="bf16")
    run_ranks(2, train_low, root)
    return root


@pytest.mark.parametrize("reduction", ["bf16", "fp32"])
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
@pytest.mark.parametrize("kind", LEARNERS)
def test_what_is_learnt_is_that_of_one_process_but_for_rounding(low_runs: Path, kind: str, strategy: str, reduction: str) -> None:
    alone, together = low_runs / f"{kind}-single", low_runs / f"{kind}-{strategy}-{reduction}"
    for ema in (False, True):
        expected, made = (checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(6), ema=ema) for folder in (alone, together))
        for name, value in expected.items():
            assert (made[name] - value).abs().max() <= 1e-2 * value.abs().max(), (name, ema)
    curves = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (alone, together)]
    for before, after in zip(*curves, strict=True):
        losses = [name for name in before if name.startswith("train/") and name.endswith("loss")]
        assert [after[name] for name in losses] == pytest.approx([before[name] for name in losses], rel=1e-2)


def test_weights_are_kept_as_they_are_trained(low_runs: Path) -> None:
    """None of them is one of the rounded ones that layers compute with, also where the task writes to its weights after a step."""
    assert "Momentum" in KINDS
    for folder in low_runs.glob("*-zero3-*"):
        for name, value in checkpoint.load_weights(folder / "checkpoints" / checkpoint.step_name(6)).items():
            if name.endswith("weight") and value.dim() == 2:
                assert (value == value.bfloat16()).double().mean() < 0.1, (folder.name, name)
