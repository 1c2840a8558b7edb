"""A disk that is full, or a folder that goes away, while a run trains in it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from genlib import checkpoint
from genlib.config import TrainConfig
from genlib.engine import fit as engine
from genlib.engine.fit import fit
from genlib.engine.listener import Listener
from genlib.recipe import Stage
from genlib.storage import StorageError
from tests.saving import wait_until_saved
from tests.small_disk import SmallDisk, mounted
from tests.tiny import ArraySource, TinyConfig


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", 600) as disk:
        yield disk


class At(Listener):
    """Does something once the row of a step is there, which is before its checkpoint."""

    def __init__(self, does: dict[int, Callable[[], object]]) -> None:
        self.does = does

    def on_log(self, row: dict) -> None:
        if does := self.does.get(row["step"]):
            wait_until_saved()  # else what it deletes at its end would make room
            does()


def train(folder: Path, does: dict[int, Callable[[], object]] | None = None, **options: object) -> Path:
    defaults = {"steps": 12, "global_batch": 8, "checkpoint_every_steps": 4, "trackers": (), "log_every_seconds": 1e-6, "keep_checkpoints": 2}
    stage = Stage(task=TinyConfig(), train=TrainConfig(**{**defaults, **options}))
    return fit(stage, recipe="tiny", source=ArraySource(), folder=folder, device=torch.device("cpu"), listener=At(does or {}))


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_and_its_rows_are_written_when_there_is_room(disk: SmallDisk, capsys: pytest.CaptureFixture) -> None:
    run = disk.path / "run"
    final = train(run, {2: disk.fill, 45: disk.free}, steps=80, checkpoint_every_steps=30)
    assert checkpoint.verify(final).finished
    assert steps(run) == list(range(1, 81))
    out = capsys.readouterr().out
    assert out.count(f"{run / 'metrics.jsonl'} cannot be written: No space left on device; the file system at {disk.path} has 0.0 MB of") == 1
    assert out.count(f"{run / 'metrics.jsonl'} is written again: no line is missing") == 1
    assert out.count("training goes on without it: checkpoint step_00000030 could not be written") == 1


def test_only_saves_that_fail_in_a_row_end_a_run(tmp_path: Path) -> None:
    for step in (2, 3, 5, 6, 8, 9):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / f".{checkpoint.step_name(step)}.partial").write_text("a file where a folder is needed")
    assert checkpoint.verify(train(tmp_path, steps=10, checkpoint_every_steps=1)).finished


def test_a_disk_that_stays_full_ends_a_run_with_a_sentence_and_the_same_command_goes_on(
    disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SAVE_AGAIN_SECONDS", 0.1)
    train(tmp_path / "whole", steps=12)
    run, whole = disk.path / "run", checkpoint.load_weights(checkpoint.newest(tmp_path / "whole" / "checkpoints")[0])
    for full_from in (6, 11):  # saves in the middle, and the last one alone
        with pytest.raises(StorageError, match=rf"the file system at {disk.path} has 0.0 MB of 0.6 MB free; 3 saves in a row failed: make room"):
            train(run, {full_from: disk.fill}, steps=12, checkpoint_every_steps=2)
        disk.free()
    final = train(run, steps=12, checkpoint_every_steps=2)
    assert steps(run) == list(range(1, 13))
    assert all(torch.equal(whole[name], value) for name, value in checkpoint.load_weights(final).items())


@pytest.mark.parametrize("killed_at", [50, None])
def test_a_checkpoint_keeps_the_rows_that_have_no_place(disk: SmallDisk, tmp_path: Path, killed_at: int | None) -> None:
    """Here metrics.jsonl alone is on the disk that is full, so that checkpoints go on without it."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to(disk.path / "metrics.jsonl")

    def kill() -> None:
        raise KeyboardInterrupt

    does = {2: disk.fill} | ({killed_at: kill} if killed_at else {})
    if killed_at:
        with pytest.raises(KeyboardInterrupt):
            train(run, does, steps=60, checkpoint_every_steps=20)
    else:
        assert checkpoint.verify(train(run, does, steps=60, checkpoint_every_steps=20)).finished
    assert len(steps(run)) < 40
    disk.free()
    for _ in range(2):
        train(run, steps=60, checkpoint_every_steps=20)
        assert steps(run) == list(range(1, 61))


def test_resuming_takes_no_room(disk: SmallDisk) -> None:
    run = disk.path / "run"
    train(run, steps=8, checkpoint_every_steps=4)
    shutil.rmtree(run / "checkpoints" / "step_00000008")
    disk.fill()
    train(run, {7: disk.free}, steps=8, checkpoint_every_steps=4)
    assert steps(run) == list(range(1, 9))


def logged(run: Path) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def test_tensorboard_waits_too(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    from genlib.engine import trackers

    monkeypatch.setattr(trackers, "_REST_SECONDS", 0.0)
    run, before = disk.path / "run", threading.active_count()
    train(run, {20: disk.fill, 60: disk.free}, steps=80, checkpoint_every_steps=50, trackers=("tensorboard",))
    rows = {row["step"]: row["train/loss"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    told = logged(run)
    assert list(rows) == list(range(1, 81))
    assert told[80] == pytest.approx(rows[80])
    assert len([step for step in told if 20 < step < 60]) > 3
    out, err = capfd.readouterr()
    assert out.count("tracker tensorboard takes nothing") <= 1
    assert "Traceback" not in out + err
    assert threading.active_count() <= before


def test_tensorboard_on_a_disk_that_stays_full_ends_with_its_run(disk: SmallDisk, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (disk.path / "tensorboard").mkdir()
    (run / "tensorboard").symlink_to(disk.path / "tensorboard")
    train(run, {3: disk.fill}, steps=200, checkpoint_every_steps=50, trackers=("tensorboard",))
    assert steps(run) == list(range(1, 201))
    out, err = capfd.readouterr()
    assert out.count("tracker tensorboard takes nothing (OSError: [Errno 28] No space left on device); the file system at") == 1
    assert "Traceback" not in out + err


class Broken:
    """A tracker of a service that goes away after two lines."""

    told: ClassVar[list[int]] = []

    def __init__(self, run: str, **options: Any) -> None:
        Broken.told = []

    def start(self) -> None:
        pass

    def store_init_configuration(self, config: dict) -> None:
        pass

    def log(self, values: dict, step: int) -> None:
        if len(self.told) == 2:
            raise ConnectionError("the server is gone")
        self.told.append(step)

    def finish(self) -> None:
        raise RuntimeError("nothing was sent")


def test_no_tracker_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "json", Broken)  # any package that is installed
    final = train(tmp_path, steps=60, checkpoint_every_steps=20, trackers=("json",))
    assert checkpoint.verify(final).finished
    assert len(Broken.told) == 2
    assert capsys.readouterr().out.count("tracker json takes nothing (ConnectionError: the server is gone); training goes on") == 1


def test_trackers_are_closed_however_a_run_ends(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_SAVE_AGAIN_SECONDS", 0.1)
    with pytest.raises(StorageError, match="3 saves in a row failed"):
        train(disk.path / "run", {2: disk.fill}, trackers=("tensorboard",), checkpoint_every_steps=3)


@pytest.mark.parametrize("trackers", [(), ("tensorboard",)])
@pytest.mark.parametrize("what", [".", "checkpoints"])
@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_folder_that_goes_ends_the_run_and_is_not_made_again(tmp_path: Path, what: str, how: str, trackers: tuple[str, ...]) -> None:
    run = tmp_path / "runs" / "mine"
    folder = (run / what).resolve()

    def go() -> None:
        if how == "removed":
            shutil.rmtree(folder)
        else:
            os.rename(folder, folder.with_name("elsewhere"))

    with pytest.raises(StorageError, match=f"the folder {folder} is gone: it was removed, renamed or unmounted"):
        train(run, {5: go}, steps=40, trackers=trackers)
    assert not folder.exists()
    if how == "renamed" and what == ".":
        assert steps(run.with_name("elsewhere")) == [1, 2, 3, 4, 5]
        os.rename(run.with_name("elsewhere"), run)
        train(run, steps=40)
        assert steps(run) == list(range(1, 41))
