"""Pictures while a run trains: the same ones at the steps that were asked for, and a run that does not notice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlib import checkpoint, distributed
from genlib.companions import Companions
from genlib.engine.pictures import RunPictures, pictures
from genlib.task import Task
from genlib.types import DataSource
from tests.engine.test_resume import STEPS, rewind, rows, stage, train, weights
from tests.processes import run_ranks
from tests.tiny import ArraySource

CPU = torch.device("cpu")


def drawn(task: Task, source: DataSource, path: Path) -> None:
    """All weights as grey levels; it uses up random numbers, and counts who else is there, as no sheet should."""
    assert not torch.is_grad_enabled()
    assert not task.training
    torch.rand(3)
    distributed.barrier()
    assert distributed.all_gather_object(1) == [1]
    flat = torch.cat([value.flatten().float() for value in task.state_dict().values()])
    Image.fromarray((flat.sigmoid() * 255).round().byte().numpy()[None]).save(path)
    task.load_state_dict({name: torch.zeros_like(value) for name, value in task.state_dict().items()})


def broken(task: Task, source: DataSource, path: Path) -> None:
    raise RuntimeError("no pencil")


def nothing(task: Task, source: DataSource, path: Path) -> None:
    """Nothing to show."""


@pytest.fixture(autouse=True)
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Task, "companions", Companions(sheet="tests.engine.test_pictures:drawn"))


def steps(folder: Path) -> list[int]:
    return [step for _, step in pictures(folder)]


def pixels(folder: Path) -> dict[int, np.ndarray]:
    return {step: np.asarray(Image.open(path)) for path, step in pictures(folder)}


def events(folder: Path, what: str) -> list[int]:
    lines = [json.loads(line) for line in (folder / "timeline.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["what"] == what]


@pytest.mark.parametrize("kind", ["WGANGP", "Momentum"])
def test_a_run_with_pictures_has_the_weights_and_rows_of_one_without(tmp_path: Path, kind: str) -> None:
    train(tmp_path / "plain", stage(kind, pictures_every_steps=0))
    final = train(tmp_path / "drawn", stage(kind, pictures_every_steps=3, keep_checkpoints=9))
    for ema in (False, True):
        there = weights(tmp_path / "plain", ema)
        assert all(value.equal(there[name]) for name, value in weights(tmp_path / "drawn", ema).items())
    assert rows(tmp_path / "drawn") == rows(tmp_path / "plain")
    assert not (tmp_path / "plain" / "pictures").exists()
    assert steps(tmp_path / "drawn") == events(tmp_path / "drawn", "picture") == [3, 6]
    assert events(tmp_path / "drawn", "save") == [2, 4, 6, 8]
    averaged = checkpoint.load_task(final.with_name(checkpoint.step_name(6)), ema=True).state_dict().values()
    flat = torch.cat([value.flatten().float() for value in averaged])
    assert np.array_equal(pixels(tmp_path / "drawn")[6][0], (flat.sigmoid() * 255).round().byte().numpy()), "the moving average is drawn"


def test_a_run_that_was_killed_goes_on_with_its_pictures(tmp_path: Path) -> None:
    one = stage("WGANGP", pictures_every_steps=1, keep_checkpoints=9)
    train(tmp_path / "whole", one)
    train(tmp_path / "cut", one)
    rewind(tmp_path / "cut")
    shutil.copy(tmp_path / "cut" / "pictures" / "step_00000001.png", tmp_path / "cut" / "pictures" / "step_00000005.png")  # of nobody's weights
    train(tmp_path / "cut", one)
    assert steps(tmp_path / "cut") == list(range(1, STEPS + 1))
    assert events(tmp_path / "cut", "picture") == list(range(1, STEPS + 1))
    assert events(tmp_path / "cut", "start") == [0, 4]
    whole = pixels(tmp_path / "whole")
    assert all(np.array_equal(value, whole[step]) for step, value in pixels(tmp_path / "cut").items())


def test_what_cannot_be_drawn_ends_no_run_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(Task, "companions", Companions(sheet="tests.engine.test_pictures:broken"))
    train(tmp_path, stage("RBM", pictures_every_steps=1))
    said = [line for line in capsys.readouterr().out.splitlines() if "picture" in line]
    assert said == [
        "step 1: no picture is drawn (RuntimeError: no pencil); training goes on",
        "step 3: no picture was drawn 3 times in a row; no more are tried until the run starts again",
    ]
    assert steps(tmp_path) == []
    assert checkpoint.find(tmp_path) is not None


@pytest.mark.parametrize("sheet", ["", "tests.engine.test_pictures:nothing"])
def test_a_task_with_nothing_to_show_has_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sheet: str) -> None:
    monkeypatch.setattr(Task, "companions", Companions(sheet=sheet))
    train(tmp_path, stage("RBM", pictures_every_steps=1))
    assert steps(tmp_path) == []


def test_left_to_itself_drawing_takes_a_twentieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("genlib.engine.pictures.time.perf_counter", lambda: clock[0])
    one = stage("RBM", steps=400)
    task = one.task.build(ArraySource().spec, {})
    some = RunPictures(tmp_path, task, None, ArraySource(), one.train, CPU)  # type: ignore[arg-type]
    drawn_at = []
    for done in range(1, 401):
        clock[0] += 0.5
        if some.due(done):
            drawn_at.append(done)
            some.spent, some.last, clock[0] = some.spent + 2, 2, clock[0] + 2
    assert drawn_at == [40, 160, 240, 320, 400], "after twenty seconds, then a second of drawing for twenty of training"
    assert not any(RunPictures(tmp_path, task, None, ArraySource(), replace(one.train, pictures_every_steps=0), CPU).due(n) for n in (20, 400))  # type: ignore[arg-type]


def train_ranks(folder: Path) -> None:
    Task.companions = Companions(sheet="tests.engine.test_pictures:drawn")
    for strategy in ("ddp", "zero3"):
        train(folder / strategy, stage("WGANGP", strategy, pictures_every_steps=2))


def test_two_ranks_draw_once_and_wait_for_nobody(tmp_path: Path) -> None:
    run_ranks(2, train_ranks, tmp_path)
    train(tmp_path / "one", stage("WGANGP", pictures_every_steps=2))
    one = pixels(tmp_path / "one")
    for strategy in ("ddp", "zero3"):
        found = pixels(tmp_path / strategy)
        assert found.keys() == one.keys() == {2, 4, 6, 8}
        assert all(np.abs(value.astype(int) - one[step]).max() <= 1 for step, value in found.items()), "whole, averaged weights"


def test_tensorboard_has_the_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, stage("RBM", pictures_every_steps=4, trackers=("tensorboard",)))
    found = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    found.Reload()
    assert [image.step for image in found.Images("pictures")] == [4, 8]
    assert found.Images("pictures")[0].width == pixels(tmp_path)[4].shape[1]
