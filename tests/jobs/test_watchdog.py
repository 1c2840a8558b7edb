"""Who is named when workers hang, slow the others down or run out of memory."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genlib.config import DataConfig, TrainConfig
from genlib.data.source import open_source
from genlib.engine.fit import fit
from genlib.engine.listener import Listener
from genlib.task import Task
from genlib.types import Batch, Metrics, Step
from jobs.links import FolderLink, Mailbox
from jobs.out_of_memory import OutOfMemory, out_of_memory, short_of_memory
from jobs.pulse import Heart, Pulse, memory_left, pulse_file, read_pulses, stacks_file
from jobs.watchdog import SILENT_SECONDS, SLOW_LOOKS, Hung, Watchdog, WorkerGuard
from tests.jobs.toy import ToyConfig, stage

STALL = 60.0
GOOD = Pulse(rank=0, node="a", time=1_000.0, step=7, moved=999.0, seconds=0.2, own=0.1, at="step", waits=False, memory_left=0.5)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    (tmp_path / "log.txt").touch()
    return tmp_path


def link_of(run: Path) -> FolderLink:
    return FolderLink(run, run / ".control")


def beat(run: Path, *found: Pulse) -> None:
    for one in found:
        pulse_file(run, one.rank).write_text(json.dumps(asdict(one)).ljust(512))


def at(rank: int, **changed: Any) -> Pulse:
    return replace(GOOD, rank=rank, node="abc"[rank], **changed)


def hang_of(run: Path, *found: Pulse) -> Any:
    beat(run, *found)
    return Watchdog(run, link_of(run), STALL).hang(len(found), now=5.0)


def test_workers_whose_steps_end_do_not_hang(run: Path) -> None:
    assert hang_of(run, at(0), at(1), at(2)) is None


def test_one_that_is_stopped_is_named_with_its_node(run: Path) -> None:
    dog = Watchdog(run, link_of(run), STALL)
    beat(run, at(0, waits=True), at(1, time=90_000.0), at(2, waits=True))
    assert dog.hang(3, now=5.0) is None, "clocks of machines may differ"
    beat(run, at(0, waits=True, time=1_031.0), at(2, waits=True, time=1_031.0))
    assert dog.hang(3, now=5.0 + SILENT_SECONDS) is None
    hang = dog.hang(3, now=6.0 + SILENT_SECONDS)
    assert hang
    assert hang.ranks == (1,)
    assert "worker 1 on b has not been heard of for 31 s" in hang.words


def test_where_nothing_is_heard_of_any_it_takes_longer_to_say_that_they_are_gone(run: Path) -> None:
    dog = Watchdog(run, link_of(run), STALL)
    beat(run, at(0), at(1))
    assert dog.hang(2, now=0.0) is None
    assert dog.hang(2, now=10 * SILENT_SECONDS) is None
    assert dog.hang(2, now=10 * SILENT_SECONDS + 1)


@pytest.mark.parametrize(("place", "words"), [("data", "hangs waiting for data for 99 s"), ("step", "hangs in its step for 99 s")])
def test_one_that_the_others_wait_for_is_named(run: Path, place: str, words: str) -> None:
    hang = hang_of(run, at(0, waits=True, moved=901.0), at(1, waits=True, moved=901.0), at(2, at=place, moved=901.0))
    assert hang.ranks == (2,)
    assert f"worker 2 on c {words}" in hang.words
    assert str(stacks_file(run, 2)) in hang.words


def test_where_it_does_not_show_who_it_is_nobody_is_named(run: Path) -> None:
    hang = hang_of(run, at(0, waits=True, moved=901.0), at(1, waits=True, moved=901.0))
    assert hang.ranks == ()
    assert "no worker has ended a step for 99 s" in hang.words


@pytest.mark.parametrize(
    "changed", [{"at": "evaluate"}, {"at": "draw"}, {"at": "save"}, {"at": ""}, {"moved": 0.0}, {"seconds": 10.0}],
    ids=["scores", "pictures", "a slow store", "between stages", "the first step", "slow steps"],
)  # fmt: skip
def test_what_takes_long_by_its_nature_is_no_hang(run: Path, changed: dict[str, Any]) -> None:
    assert hang_of(run, *(at(rank, **{"moved": 901.0, **changed}) for rank in (0, 1))) is None


def test_a_slow_worker_is_named_once_and_only_if_it_stays_so(run: Path) -> None:
    dog = Watchdog(run, link_of(run), STALL)
    beat(run, at(0), at(1, own=0.5, seconds=0.6), at(2))
    said = [dog.slow(3) for _ in range(SLOW_LOOKS + 3)]
    assert [bool(one) for one in said] == [False] * (SLOW_LOOKS - 1) + [True] + [False] * 3
    assert "worker 1 on b is slow: its data and forward pass take 0.5 s a step and those of the others 0.1 s" in said[SLOW_LOOKS - 1]


def test_workers_are_ended_as_often_as_the_run_may_be_tried_again(run: Path) -> None:
    guard = WorkerGuard(run, link_of(run), STALL, retries=1)
    for expected in (True, Hung):
        beat(run, at(0, waits=True), at(1))
        guard.dog.hang(2, now=time.monotonic() - 100)
        beat(run, at(1, time=1_001.0))
        guard.looked = float("-inf")
        if expected is True:
            assert guard.ends(2)
        else:
            with pytest.raises(Hung, match="worker 0 on a has not been heard of"):
                guard.ends(2)
    assert "retry 1 of 1" in (run / "log.txt").read_text()
    assert "hung" in (run / "launches.jsonl").read_text()


class Stuck(Task):
    """Its third step waits until it is let go."""

    def __init__(self, go: threading.Event) -> None:
        super().__init__()
        self.go, self.net = go, torch.nn.Linear(64, 1)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[torch.Tensor, Metrics]:
        if step.index == 2:
            self.wait_for_nobody()
        return self.net(batch["image"].flatten(1)).square().mean(1), {}

    def wait_for_nobody(self) -> None:
        self.go.wait(60)


def test_a_worker_in_a_step_that_does_not_end_writes_its_stacks_and_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.pulse.BEAT_SECONDS", 0.05)
    go, seen = threading.Event(), []
    one = stage()
    one = replace(one, train=replace(one.train, steps=4, checkpoint_every_steps=0, ema_halflife_samples=0))
    monkeypatch.setattr(ToyConfig, "build", lambda self, data, upstream: Stuck(go))

    def look() -> None:
        while not stacks_file(run, 0).exists() or "wait_for_nobody" not in stacks_file(run, 0).read_text():
            time.sleep(0.02)
        seen.append(read_pulses(run, 1)[0])
        go.set()

    with Heart(link_of(run), run, stall_seconds=0.5) as heart:

        class Steps(Listener):
            def on_step(self, done: int) -> None:
                heart.on_step(done)

        threading.Thread(target=look, daemon=True).start()
        fit(
            one,
            recipe="toy",
            source=open_source(DataConfig(train="digits"), run / "data"),
            folder=run / "run",
            device=torch.device("cpu"),
            listener=Steps(),
        )
    assert (seen[0].step, seen[0].at, seen[0].waits) == (2, "step", False)
    assert not read_pulses(run, 1)[0].moved, "a worker that has ended is not missed"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "ran out of memory, with 32 samples at once"),
        (RuntimeError("[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory"),
        (RuntimeError("shapes do not fit"), ""),
    ],
)  # fmt: skip
def test_too_little_memory_is_said_with_what_to_change(error: Exception, words: str) -> None:
    told = out_of_memory(error, TrainConfig(global_batch=64, accumulation=2))
    assert (told is None) == (not words)
    if told:
        assert isinstance(told, OutOfMemory)
        assert words in str(told)
        assert "--train.accumulation" in str(told)


def test_what_torch_raises_where_there_is_no_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(raised.value, TrainConfig())


@pytest.mark.parametrize("by", ["folder", "mailbox"])
def test_workers_that_are_asked_to_move_may_stay_where_they_begin_again(run: Path, by: str) -> None:
    link: Any = link_of(run) if by == "folder" else Mailbox()
    assert not link.move_asked()
    link.beat(at(1))
    link.ask_to_move()
    assert link.move_asked()
    assert (link.pulses(2) if by == "folder" else link.pulses()) == {1: at(1)}
    link.allow_to_stay()
    assert not link.move_asked()
    assert (link.pulses(2) if by == "folder" else link.pulses()) == {}


def test_a_lost_worker_whose_machine_was_full_is_said_to_be(run: Path) -> None:
    found = {0: at(0), 1: at(1, memory_left=0.01)}
    assert "the machine of worker 1 on b had 1.0% of its memory left" in short_of_memory(found, [1])
    assert short_of_memory(found, [0]) == ""
    assert 0 < memory_left() < 1
