"""The most memory that a rank really holds in each part of a run, by the kernel's high-water mark, beside what the plan says of it."""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from genlib import distributed, registry
from genlib.data.source import open_source
from genlib.engine import fit as engine
from genlib.engine import zero
from genlib.engine.host_memory import give_back_large_blocks
from genlib.engine.memory_plan import Parallelism, Peaks, estimate_memory
from genlib.engine.saver import Saver
from genlib.engine.sharded_init import ShardedInit
from genlib.engine.trace import FakeTask
from genlib.recipe import Stage
from tests.processes import run_ranks

ROWS, SAVED, STEPS, MORE = 8, 3, 6, 8
PARTS = ("birth", "step", "save", "resume")


def stage_of(parallelism: Parallelism, world: int, *, width: int, layers: int, precision: str = "fp32", steps: int = STEPS) -> Stage:
    """A dense autoencoder of digits, which is saved on the way and at the end."""
    (stage,) = registry.load("autoencoder").stages
    train = replace(
        stage.train, strategy=parallelism.strategy, offload=parallelism.offload, precision=precision, steps=steps, global_batch=ROWS * world,
        checkpoint_every_steps=SAVED, keep_checkpoints=1, evaluate_every_steps=0, pictures_every_steps=0, ema_halflife_samples=1_000, trackers=(),
    )  # fmt: skip
    data = replace(stage.data, train="digits", image_size=8, cache_mb=0)
    return replace(stage, task=replace(stage.task, network="dense", widths=(width,) * layers), data=data, train=train)


def planned_peaks(stage: Stage, world: int) -> tuple[Peaks, int]:
    """What the plan says of it, and the bytes that it copies for a save."""
    spec, parallelism = open_source(stage.data).spec, Parallelism(stage.train.strategy, stage.train.offload)
    view = estimate_memory(FakeTask(lambda: stage.task.build(spec, {})), stage.train, ROWS, stage.data)
    return view.peaks(parallelism, world, ROWS), view.at(parallelism, world, ROWS).save_bytes


def measured_peaks(stage: Stage, world: int) -> dict[str, float]:
    """Bytes above the bare process in each part of a run that begins, saves, ends and is resumed; the most of any rank.

    Also `stall`, the CPU seconds that steps stood still for the last save, and `copied`, the bytes that a rank copies in one, all ranks at once.
    """
    small = replace(stage, task=replace(stage.task, widths=(64,) * len(stage.task.widths)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, steps in (("begun", STEPS), ("resumed", MORE)):
            stages = [replace(one, train=replace(one.train, steps=steps)) for one in (small, stage)]
            run_ranks(world, write_peaks, folder, part, *stages)
        found = [[json.loads((folder / f"{part}_{rank}.json").read_text()) for rank in range(world)] for part in ("begun", "resumed")]
    most = [{name: max(one[name] for one in ranks) for name in ranks[0]} for ranks in found]
    return {**most[0], "resume": most[1]["birth"]}


def write_peaks(folder: Path, part: str, small: Stage, stage: Stage) -> None:
    """What one of several processes does: it trains, and notes its peaks in the folder. A small run comes first, for what is made once."""
    zero.ShardedInit = ShardedInit  # as it is outside of tests
    give_back_large_blocks()  # else the C library keeps what is freed, as ZeRO-3 asks it not to
    with_peaks(small, folder / f"small_{part}")
    peaks = {**with_peaks(stage, folder / "run"), "copied": copied_per_second()}
    (folder / f"{part}_{distributed.rank()}.json").write_text(json.dumps(peaks))


def copied_per_second(size: int = 64 << 20, times: int = 5) -> float:
    """Bytes in a CPU second, all ranks copying at once: the median of several times."""
    source, target, seconds = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8), []
    for _ in range(times):
        distributed.barrier()
        begin = time.thread_time()
        target.copy_(source)
        seconds.append(time.thread_time() - begin)
    return size / statistics.median(seconds)


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")) * 1024


def begin_anew() -> None:
    """Lets the high-water mark fall to what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def with_peaks(stage: Stage, folder: Path) -> dict[str, float]:
    """Trains the stage, from its newest checkpoint in the folder if there is one, and returns its peaks and its last save's `stall`."""
    trained, save, settle = engine.Training.trained, Saver.save, Saver.settle
    found: dict[str, float] = {}

    def note(part: str) -> None:
        found.setdefault(part, memory("VmHWM") - bare)
        begin_anew()

    def noted_birth(training: engine.Training, first: int, kept: Path | None) -> Path:
        note("birth")
        return trained(training, first, kept)

    def noted_steps(saver: Saver, *arguments: object) -> None:
        if saver.under_way is None:
            note("step")
        begin = time.thread_time()
        save(saver, *arguments)  # type: ignore[arg-type]
        found["stall"] = time.thread_time() - begin

    def noted_save(saver: Saver) -> Path | None:
        under_way, result = saver.under_way, settle(saver)
        if under_way is not None:
            note("save")
        return result

    source = open_source(stage.data)
    gc.collect()
    begin_anew()
    bare = memory("VmRSS")
    engine.Training.trained, Saver.save, Saver.settle = noted_birth, noted_steps, noted_save  # type: ignore[method-assign]
    try:
        engine.fit(stage, recipe="autoencoder", source=source, folder=folder, device=torch.device("cpu"))
    finally:
        engine.Training.trained, Saver.save, Saver.settle = trained, save, settle  # type: ignore[method-assign]
    return found
