"""The plan against what a step of a small U-Net really allocates, and against what is known without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.companions import Companions
from genlib.config import DataConfig, OptimConfig, TrainConfig
from genlib.engine.memory_plan import PARALLELISMS, MemoryEstimate, Parallelism, estimate_memory, pinned_surplus
from genlib.engine.trace import FakeTask, flops_per_sample
from genlib.task import Task
from genlib.types import Batch, Metrics, Step
from tests.peak import UNet, config, write_peak, write_saved_bytes
from tests.processes import run_ranks
from tests.run_peaks import PARTS, measured_peaks, planned_peaks, stage_of

MICRO_BATCH = 8


def example(task: Task, size: int) -> Batch:
    return {"x": torch.zeros(size, 128)}


class Line(Task):
    """One weight (64, 128): everything about it can be counted by hand."""

    companions = Companions(example="tests.engine.test_memory_plan:example")

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(128, 64, bias=False)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return self.net(batch["x"]).square().sum(1), {}


class Values(Line):
    """Its loss depends on a value, which a plan does not have."""

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return self.net(batch["x"] * self.net.weight.max().item()).sum(1), {}


def view(task: type[Task] = Line, **train: object) -> MemoryEstimate:
    return estimate_memory(FakeTask(task), TrainConfig(**train), 16)


def test_operations_of_a_matrix_product() -> None:
    products = 2  # forward, and backward to the weight: the input wants no gradient
    assert view().flops_per_sample() == products * 2 * 64 * 128


def test_parts_of_one_weight_over_four_workers() -> None:
    numel = 64 * 128
    adam = view(ema_halflife_samples=10)
    parts = {str(parallelism): adam.at(parallelism, 4, 16).parts for parallelism in PARALLELISMS if parallelism.strategy != "single"}
    assert parts["ddp"]["optimizer"] == 2 * 4 * numel
    assert parts["zero2"]["optimizer"] == 2 * numel  # a quarter
    assert parts["zero3"]["weights"] == numel
    assert "optimizer" not in parts["zero2, optimizer offloaded"]
    assert "weights" not in parts["zero3, all offloaded"]
    assert all(part["EMA"] == numel for part in parts.values())
    assert view(optim=OptimConfig(name="sgd")).at(Parallelism("ddp"), 4, 16).parts.get("optimizer") is None


def test_sharding_and_offload_only_ever_save_memory_as_workers_join() -> None:
    plan = view()
    for parallelism in PARALLELISMS:
        sizes = [plan.at(parallelism, world, 16).device_bytes for world in (2, 8, 64)]
        assert sizes == sorted(sizes, reverse=True)


def test_largest_micro_batch_fits_and_one_more_does_not() -> None:
    plan = view()
    for parallelism in PARALLELISMS:
        most = plan.largest_micro_batch(parallelism, 4, 1e6)
        assert plan.at(parallelism, 4, most).device_bytes <= 1e6 < plan.at(parallelism, 4, most + 1).device_bytes
    assert plan.largest_micro_batch(Parallelism("ddp"), 4, 1000) == 0


def test_a_trace_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    view(UNet)
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_that_asks_for_values_is_refused() -> None:
    with pytest.raises(ValueError, match="Values cannot be planned: its loss asks for the value of a tensor"):
        view(Values)


def test_checkpointing_is_seen() -> None:
    plain, saving = (
        estimate_memory(FakeTask(lambda saved=saved: UNet(checkpointing=saved)), config(Parallelism("single")), 8) for saved in (False, True)
    )
    assert saving.at(Parallelism("single"), 1, 8).parts["activations"] < 0.6 * plain.at(Parallelism("single"), 1, 8).parts["activations"]
    assert 1.1 < saving.flops_per_sample() / plain.flops_per_sample() < 1.5
    counts = [flops_per_sample(FakeTask(lambda saved=saved: UNet(checkpointing=saved)), MICRO_BATCH, "fp32") for saved in (False, True)]
    assert counts[0] == counts[1] == plain.flops_per_sample()


def test_checkpointing_is_told_apart_where_a_library_replaced_the_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's replacement, which a ZeRO-3 run leaves in its process, is a torch.autograd.Function: inside of it no gradients are recorded."""
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    plain = flops_per_sample(FakeTask(lambda: UNet(checkpointing=True)), MICRO_BATCH, "fp32")
    monkeypatch.setattr(F, "linear", zero3_linear_wrap)
    assert flops_per_sample(FakeTask(lambda: UNet(checkpointing=True)), MICRO_BATCH, "fp32") == plain


def measured(tmp_path: Path, parallelism: Parallelism, world: int, train: TrainConfig, checkpointing: bool = False) -> int:
    out = tmp_path / "peak"
    run_ranks(world, write_peak, out, parallelism, train, MICRO_BATCH, checkpointing)
    return int(out.read_text())


def predicted(parallelism: Parallelism, world: int, train: TrainConfig, checkpointing: bool = False) -> int:
    memory = estimate_memory(FakeTask(lambda: UNet(checkpointing=checkpointing)), train, MICRO_BATCH).at(parallelism, world, MICRO_BATCH)
    return memory.device_bytes + (0 if torch.cuda.is_available() else memory.host_bytes)


@pytest.mark.parametrize("variant", ["fp32", "bf16", "checkpointed", "schedule_free_adamw"])
def test_predicted_is_within_a_tenth_of_measured_in_one_process(tmp_path: Path, variant: str) -> None:
    parallelism, saved = Parallelism("single"), variant in ("checkpointed", "schedule_free_adamw")
    averaged = variant == "schedule_free_adamw"
    train = config(parallelism, ema=False, optim=variant) if averaged else config(parallelism, "bf16" if variant == "bf16" else "fp32")
    assert predicted(parallelism, 1, train, saved) == pytest.approx(measured(tmp_path, parallelism, 1, train, saved), rel=0.1)


@pytest.mark.parametrize(
    ("strategy", "precision"),
    [
        ("zero2", "fp32"),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (("ddp", "fp32"), ("zero1", "fp32"), ("zero3", "fp32"), ("zero1", "bf16"), ("zero2", "bf16"), ("zero3", "bf16"))
        ),
    ],
)
def test_predicted_is_within_a_tenth_of_measured_in_two_processes(tmp_path: Path, strategy: str, precision: str) -> None:
    parallelism = Parallelism(strategy)
    train = config(parallelism, precision)
    assert predicted(parallelism, 2, train) == pytest.approx(measured(tmp_path, parallelism, 2, train), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_so_it_is_where_a_step_has_several_micro_batches(tmp_path: Path, strategy: str) -> None:
    parallelism = Parallelism(strategy)
    train = config(parallelism, accumulation=2)
    assert predicted(parallelism, 2, train) == pytest.approx(measured(tmp_path, parallelism, 2, train), rel=0.1)


def check_run(parallelism: Parallelism, world: int, precision: str = "fp32") -> None:
    stage = stage_of(parallelism, world, width=1024, layers=4, precision=precision)
    (planned, _), held = planned_peaks(stage, world), measured_peaks(stage, world)
    ratios = {part: getattr(planned, part).together / held[part] for part in PARTS}
    assert ratios == pytest.approx(dict.fromkeys(PARTS, 1.0), abs=0.1)


@pytest.mark.parametrize(
    "parallelism",
    [pytest.param(one, id=str(one), marks=() if one == Parallelism("ddp") else pytest.mark.slow) for one in PARALLELISMS if one.strategy != "single"],
)
def test_birth_step_save_and_resume_are_within_a_tenth_of_the_high_water_marks(parallelism: Parallelism) -> None:
    check_run(parallelism, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "world"), [("single", 1), ("ddp", 4), ("zero2", 4), ("zero3", 4)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_they_are_with_other_numbers_of_processes(strategy: str, world: int, precision: str) -> None:
    check_run(Parallelism(strategy), world, precision)


def test_a_model_is_built_on_the_host_and_then_shared_out() -> None:
    zero3, ddp = (view().peaks(Parallelism(name), 1000, 16) for name in ("zero3", "ddp"))
    numel = 64 * 128
    checked = 2 * 4 * numel  # added up in fp64
    assert ddp.birth.host == 4 * numel + checked
    assert ddp.resume.host == 2 * 4 * numel  # what it is filled from
    assert zero3.birth.host == 4 * numel + checked  # smaller than what is whole at once while it is made


def test_a_save_needs_its_copy_and_a_resume_the_state_that_it_reads() -> None:
    plan, numel = view(ema_halflife_samples=10), 64 * 128
    single = plan.peaks(Parallelism("single"), 1, 16)
    memory = plan.at(Parallelism("single"), 1, 16)
    assert memory.save_bytes == 4 * 4 * numel  # weights, their average, two numbers of Adam's
    assert single.save.together - single.step.together == memory.save_bytes
    assert single.resume.together == 6 * 4 * numel  # what is kept, and the pages from which Adam's come


def test_beside_a_gpu_pinned_blocks_are_powers_of_two() -> None:
    assert [pinned_surplus(size) for size in (0, 1, 2, 3, 4, 5)] == [0, 0, 0, 1, 0, 3]
    plan = view(ema_halflife_samples=10)
    saved = plan.at(Parallelism("ddp"), 3, 16).save_bytes
    peaks = plan.peaks(Parallelism("ddp"), 3, 16)
    assert peaks.save.host - peaks.step.host == saved + pinned_surplus(saved)


def test_the_host_holds_what_loaders_keep() -> None:
    one = 16 * 128 * 4
    plan = estimate_memory(FakeTask(Line), TrainConfig(global_batch=32), 16, DataConfig(cache_mb=3, readers=2))
    bare = estimate_memory(FakeTask(Line), TrainConfig(global_batch=32), 16)
    loaded, unloaded = (one.peaks(Parallelism("ddp"), 2, 16).step for one in (plan, bare))
    batch = plan.batch_bytes(16)
    assert batch > one
    assert loaded.host - unloaded.host == (3 << 20) + 3 * batch  # two ahead of each reader process, in place of one
    assert plan.at(Parallelism("ddp"), 2, 16).parts["batches"] == 4 * batch  # the step's, two in the queue, one before it


@pytest.mark.parametrize(("strategy", "optim"), [("ddp", "adamw"), ("zero2", "adamw"), ("zero3", "adamw"), ("zero2", "schedule_free_adamw")])
def test_a_plan_knows_what_is_copied_for_a_save(tmp_path: Path, strategy: str, optim: str) -> None:
    parallelism = Parallelism(strategy)
    train = config(parallelism, ema=optim == "adamw", optim=optim)
    run_ranks(2, write_saved_bytes, tmp_path / "bytes", parallelism, train, MICRO_BATCH)
    memory = estimate_memory(FakeTask(UNet), train, MICRO_BATCH).at(parallelism, 2, MICRO_BATCH)
    assert memory.save_bytes == pytest.approx(int((tmp_path / "bytes").read_text()), rel=0.1)


def test_a_plan_knows_what_a_file_of_deepspeed_settings_says(tmp_path: Path) -> None:
    path, zero3 = tmp_path / "own.json", Parallelism("zero3")
    path.write_text('{"zero_optimization": {"reduce_bucket_size": 1000, "stage3_max_live_parameters": 500}}')
    parts = view(strategy="zero3", deepspeed=str(path)).at(zero3, 4, 16).parts
    assert parts["gathered weights"] == 4 * 2 * 500
    assert parts["buckets"] < view(strategy="zero3").at(zero3, 4, 16).parts["buckets"]
