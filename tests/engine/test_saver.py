"""Saving beside training: what is saved is the step's, steps go on meanwhile, and what goes wrong costs that save alone."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from genlib import checkpoint, distributed
from genlib.checkpoint import Manifest, Snapshot, saving
from genlib.checkpoint.tensor_files import FileLayout
from genlib.config import TrainConfig
from genlib.distributed import Sideline
from genlib.engine import saver as engine
from genlib.engine.fit import fit
from genlib.engine.listener import Evaluated, Listener
from genlib.engine.stop import Interrupted
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step
from tests.every_strategy import STRATEGIES
from tests.processes import run_ranks
from tests.saving import wait_until_saved
from tests.tiny import FEATURES, ArraySource, TinyConfig, mlp

CPU = torch.device("cpu")


def stage_of(kind: str = "VAE", **options: object) -> Stage:
    defaults = {"steps": 8, "global_batch": 12, "checkpoint_every_steps": 2, "keep_checkpoints": 9, "ema_halflife_samples": 30, "trackers": ()}
    return Stage(task=TinyConfig(kind=kind), train=TrainConfig(**{**defaults, **options}))


def train(folder: Path, stage: Stage, listener: Listener | None = None) -> Path:
    return fit(stage, recipe="tiny", source=ArraySource(), folder=folder, device=CPU, listener=listener)


def equal(one: Path, other: Path) -> bool:
    """Whether two checkpoints have the same weights and averages."""
    pairs = [(checkpoint.load_weights(one, ema=ema), checkpoint.load_weights(other, ema=ema)) for ema in (False, True)]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


class Slow:
    """Holds every save back, before it writes, until a step that comes later lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on, write = threading.Event(), saving._Save.write

        def held_back(save: saving._Save) -> None:
            assert self.go_on.wait(60)
            write(save)

        monkeypatch.setattr(saving._Save, "write", held_back)


class Follows(Listener):
    """Notes after which step it hears of each checkpoint; each live line is one step's."""

    def __init__(self, does: dict[int, Callable[[], object]] | None = None) -> None:
        self.step, self.heard, self.evaluated, self.does = 0, [], [], does or {}

    def on_log(self, row: dict) -> None:
        self.step = row["step"]
        self.does.get(self.step, lambda: None)()

    def on_checkpoint(self, folder: Path, row: dict, evaluated: Evaluated | None) -> None:
        assert checkpoint.verify(folder).step == row["step"]
        self.heard.append((row["step"], self.step))
        self.evaluated.append(evaluated and evaluated.step)


def test_steps_go_on_while_a_checkpoint_is_written_and_it_has_the_weights_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of(steps=20, checkpoint_every_steps=10, evaluate_every_steps=5, log_every_seconds=1e-6)
    until_ten = stage_of(steps=20, checkpoint_every_steps=10, log_every_seconds=1e-6)
    train(tmp_path / "undisturbed", until_ten)
    slow = Slow(monkeypatch)
    follows = Follows({16: lambda: (slow.go_on.set(), wait_until_saved())})
    train(tmp_path / "run", stage, follows)
    assert [step for step, _ in follows.heard] == [10, 20]
    assert 16 <= follows.heard[0][1] <= 20
    assert follows.evaluated == [10, 20]  # that of step 15 came before the checkpoint of step 10 was sealed
    for step in (10, 20):
        name = checkpoint.step_name(step)
        assert equal(tmp_path / "run/checkpoints" / name, tmp_path / "undisturbed/checkpoints" / name)


def test_a_save_that_is_due_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(engine, "_SAY_SECONDS", 0.05)
    slow = Slow(monkeypatch)
    threading.Timer(1.0, slow.go_on.set).start()
    follows = Follows()
    train(tmp_path, stage_of(steps=6, log_every_seconds=1e-6), follows)
    assert [step for step, _ in follows.heard] == [2, 4, 6]
    assert "the steps wait for the checkpoint of step 2, which is still being written to" in capsys.readouterr().out


def test_a_stop_waits_for_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    threading.Timer(0.5, slow.go_on.set).start()

    class Stops(Listener):
        def stop_asked(self) -> bool:
            return True

    with pytest.raises(Interrupted) as ended:
        train(tmp_path, stage_of(), Stops())
    assert ended.value.checkpoint is not None
    assert checkpoint.verify(ended.value.checkpoint).step == ended.value.step


def test_an_error_of_a_step_lets_the_save_come_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        threading.Timer(0.5, slow.go_on.set).start()
        raise KeyboardInterrupt

    slow = Slow(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stage_of(log_every_seconds=1e-6), Follows({3: fail}))
    found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None
    assert found[1].step == 2


def test_a_run_says_which_checkpoint_was_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stage = stage_of(steps=6)
    train(tmp_path, stage)
    shutil.rmtree(tmp_path / "checkpoints" / checkpoint.step_name(6))
    (tmp_path / "checkpoints" / ".step_00000006.partial").mkdir()
    train(tmp_path, stage)
    assert "resumed from step_00000004: step 4 of 6, 48 samples seen; the checkpoint of step 6 was cut off\n" in capsys.readouterr().out
    assert not partials(tmp_path / "checkpoints")


def save_often_and_never(folder: Path) -> None:
    for strategy in STRATEGIES:
        for kind in ("GAN", "Momentum"):
            for every in (0, 1):
                train(folder / f"{kind}-{strategy}-{every}", stage_of(kind, strategy=strategy, checkpoint_every_steps=every, keep_checkpoints=1))


def test_a_run_that_saves_at_every_step_has_the_weights_of_one_that_never_does(tmp_path: Path) -> None:
    run_ranks(2, save_often_and_never, tmp_path)
    name = f"checkpoints/{checkpoint.step_name(8)}"
    for strategy in STRATEGIES:
        for kind in ("GAN", "Momentum"):
            assert equal(tmp_path / f"{kind}-{strategy}-0" / name, tmp_path / f"{kind}-{strategy}-1" / name), (kind, strategy)


class Tied(Task):
    """Two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"first": nn.Linear(FEATURES, FEATURES), "second": nn.Linear(FEATURES, FEATURES)})
        self.net["second"].weight = self.net["first"].weight

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[torch.Tensor, Metrics]:
        return (self.net["second"](self.net["first"](batch["x"])) - batch["x"]).square().mean(1), {}


@dataclass(frozen=True, kw_only=True, slots=True)
class TiedConfig(TinyConfig):
    """No settings."""

    def build(self, data: DataSpec, upstream: object) -> Tied:
        return Tied()


def train_tied(folder: Path) -> None:
    for strategy in STRATEGIES:
        one = stage_of(strategy=strategy)
        train(folder / strategy, replace(one, task=TiedConfig()))


def test_every_name_of_a_weight_has_its_average(tmp_path: Path) -> None:
    run_ranks(2, train_tied, tmp_path)
    for strategy in STRATEGIES:
        folder = tmp_path / strategy / "checkpoints" / checkpoint.step_name(8)
        average, weights = (checkpoint.load_weights(folder, ema=ema) for ema in (True, False))
        assert torch.equal(average["net.first.weight"], average["net.second.weight"])
        assert not torch.equal(average["net.second.weight"], weights["net.second.weight"])
        assert torch.equal(checkpoint.load_task(folder).net["first"].weight, average["net.first.weight"])


def save_with_trouble(folder: Path) -> None:
    """Of two saves the first finds no room on rank 1 alone."""
    write = FileLayout.write

    def full(layout: FileLayout, where: Path, shards: object) -> None:
        if distributed.rank() == 1 and where.name == ".step_00000002.partial":
            raise OSError(28, "No space left on device", str(where))
        write(layout, where, shards)

    FileLayout.write = full
    follows = Follows()
    with redirect_stdout(io.StringIO()) as out:
        train(folder, stage_of(steps=6, strategy="zero3"), follows)
    (folder / f"{distributed.rank()}.txt").write_text(out.getvalue())
    assert [step for step, _ in follows.heard] == [4, 6]


def test_one_rank_without_room_costs_that_save_alone(tmp_path: Path) -> None:
    run_ranks(2, save_with_trouble, tmp_path)
    out = "".join(path.read_text() for path in tmp_path.glob("*.txt"))
    assert out.count("training goes on without it: checkpoint step_00000002 could not be written") == 1
    assert "No space left on device" in out
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()].count(".step_00000002.partial") == 0


def same_bytes(folder: Path) -> None:
    """Each rank writes its part of the same tensors."""
    tensors = some_tensors()
    rank, world = distributed.rank(), distributed.world_size()
    shards = []
    for name, tensor in tensors.items():
        low, high = distributed.share(tensor.numel(), rank, world)
        shards.append(checkpoint.Shard(name, low, tensor.reshape(-1)[low:high]))
    layout = FileLayout({name: tensor.to("meta") for name, tensor in tensors.items()}, "x")
    if not rank:
        layout.create(folder)
    distributed.barrier()
    layout.write(folder, shards)


def some_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "matrix": torch.randn(7, 5), "scalar": torch.tensor(3.5), "none": torch.empty(0, 4), "mask": torch.tensor([True, False, True]),
        "half": torch.randn(9).half(), "brain": torch.randn(3, 3).bfloat16(), "count": torch.tensor(7), "bytes": torch.arange(11, dtype=torch.uint8),
        "double": torch.randn(2, dtype=torch.float64), "complex": torch.randn(3, dtype=torch.complex64), "käse": torch.randn(1),
    }  # fmt: skip


@pytest.mark.parametrize("world", [1, 3])
def test_files_are_what_the_library_reads_whoever_wrote_which_part(tmp_path: Path, world: int) -> None:
    from safetensors.torch import load_file

    run_ranks(world, same_bytes, tmp_path) if world > 1 else same_bytes(tmp_path)
    found, expected = load_file(tmp_path / "x.safetensors"), some_tensors()
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items())


def test_a_type_that_files_cannot_hold_is_named() -> None:
    with pytest.raises(ValueError, match=r"odd is of torch.complex128, which a file of weights cannot hold"):
        FileLayout({"odd": torch.zeros(2, dtype=torch.complex128)}, "x")


class Wide(Task):
    """Some megabytes, so that a save takes a while."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(FEATURES, 1024, 1024, 1024, FEATURES)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[torch.Tensor, Metrics]:
        return (self.net(batch["x"]) - batch["x"]).square().mean(1), {}


@dataclass(frozen=True, kw_only=True, slots=True)
class WideConfig(TinyConfig):
    """No settings."""

    def build(self, data: DataSpec, upstream: object) -> Wide:
        return Wide()


def run_wide(folder: Path, strategy: str) -> None:
    """A run that is nearly always in a save; in every rank."""
    (folder / f"pid{distributed.rank()}").write_text(str(os.getpid()))
    train(folder, Stage(task=WideConfig(), train=TrainConfig(
        steps=60, global_batch=24, strategy=strategy, checkpoint_every_steps=3, ema_halflife_samples=100, trackers=(), keep_checkpoints=2,
    )))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_a_kill_at_any_moment_of_a_save_costs_that_save_alone(tmp_path: Path, strategy: str) -> None:
    """Four ranks, then three, then one; each time all of them are killed, or one is lost, while files are written."""
    moments = random.Random(strategy)
    checkpoints = tmp_path / "checkpoints"
    for world, lost in ((4, False), (3, True), (1, False)):
        before, old = checkpoint.newest(checkpoints), partials(checkpoints)
        for path in tmp_path.glob("pid*"):
            path.unlink()
        process = subprocess.Popen([sys.executable, "-m", "tests.engine.test_saver", str(tmp_path), str(world), strategy], start_new_session=True)
        deadline = time.monotonic() + 240
        while not (partials(checkpoints) - old):
            assert process.poll() is None, f"ended by itself with {process.returncode}"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.2))
        if lost:
            os.kill(int((tmp_path / f"pid{world - 1}").read_text()), signal.SIGKILL)
            process.wait(120)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        found = checkpoint.newest(checkpoints)
        assert (found[1].step if found else 0) >= (before[1].step if before else 0)
    run_ranks(2, run_wide, tmp_path, strategy)
    found = checkpoint.newest(checkpoints)
    assert found is not None
    assert found[1].finished
    assert not partials(checkpoints)


def partials(checkpoints: Path) -> set[tuple[str, int]]:
    """Folders of saves that are under way, or were when they ended."""
    found = set()
    for path in checkpoints.glob(".step_*.partial"):
        with suppress(OSError):  # sealed in between
            found.add((path.name, path.stat().st_ino))
    return found


def test_a_lost_rank_ends_a_save_on_the_others(tmp_path: Path) -> None:
    run_ranks(2, lose_one, tmp_path)
    assert (tmp_path / "ended").read_text()
    assert not checkpoint.checkpoints(tmp_path)


def lose_one(folder: Path) -> None:
    ranks = Sideline()
    if distributed.rank():
        os._exit(0)  # at once, as a kill ends it, of which the other would not be left to hear
    snapshot = Snapshot(manifest_of(1), {}, [], None, [], lambda _: None)
    writing = engine.Writing(folder, snapshot, ranks, lambda *_: None)
    writing.thread.start()
    with pytest.raises(RuntimeError):
        writing.wait()
    (folder / "ended").write_text("yes")
    os._exit(0)


def manifest_of(step: int) -> Manifest:
    state = checkpoint.DataState(digest="", order_version=1, seed=0, global_batch=1, micro_batch=1, position=0, epoch=0)
    blueprint = checkpoint.Blueprint.of(TinyConfig(), ArraySource().spec, {})
    return Manifest(
        recipe="x", stage="x", blueprint=blueprint, train={}, data={}, data_state=state, step=step, steps=9, samples_seen=0, updates={}
    )  # fmt: skip


if __name__ == "__main__":
    from tests.engine import test_saver  # by its name, under which its classes are trusted

    run_ranks(int(sys.argv[2]), test_saver.run_wide, Path(sys.argv[1]), sys.argv[3])
