"""metrics.jsonl: one row a step whatever was killed; the live line; TensorBoard."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genlib.engine.report import Report
from genlib.storage import cut_after


def report(folder: Path, first: int = 0, trackers: tuple[str, ...] = ()) -> Report:
    return Report(folder, steps=10, first_step=first, batch=4, seconds_between=1e9, trackers=trackers, config={}, flops_per_sample=None)


def values(step: int) -> dict:
    return {"train/loss": torch.tensor(1.0 / step), "train/lr": 0.5, "batch_time": 0.1, "data_time": 0.01}


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_step_has_a_row_with_exact_values(tmp_path: Path) -> None:
    one = report(tmp_path)
    for step in range(1, 8):
        one.add(step, values(step))
    one.flush()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["samples_seen"]) for row in rows] == [(i, 4 * i) for i in range(1, 8)]
    assert [row["train/loss"] for row in rows] == pytest.approx([1 / i for i in range(1, 8)])
    assert {row["train/lr"] for row in rows} == {0.5}


def test_rows_after_the_checkpoint_are_done_again(tmp_path: Path) -> None:
    first = report(tmp_path)
    for step in range(1, 7):
        first.add(step, values(step))
    first.flush()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "tra')  # cut off by a kill
    second = report(tmp_path, first=4)
    for step in range(5, 9):
        second.add(step, values(step))
    second.flush()
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("odd", ['{"step": null}', '{"step": [1]}', "5", "[" * 100_000, f'{{"step": {10**400}}}', "\xff", '{"step": NaN}'])
def test_a_damaged_row_is_as_good_as_none(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{odd}\n{{"step": 2}}\n{{"step": 3}}\n', encoding="latin-1")
    cut_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_cutting_nothing(tmp_path: Path) -> None:
    cut_after(tmp_path / "none.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_live_line_says_where_the_run_stands(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one = report(tmp_path)
    one.add(1, {**values(1), "train/loss": torch.tensor(torch.nan)})
    line = capsys.readouterr().out
    for words in ("step  1/10", "4 samples", "per worker)", "data ", "loss nan", "lr 5.00e-01", "ETA "):
        assert words in line


def test_tensorboard_has_the_rows_that_were_printed(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    one = report(tmp_path, trackers=("tensorboard",))
    one.add(1, values(1))
    one.add(2, values(2))
    one.flush()
    one.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]


def test_what_a_launcher_left_in_the_environment_is_not_of_this_run() -> None:
    """torchrun's and MPI's variables, as a shell within a job has them: accelerate would wait for the processes that they tell of."""
    script = (
        "import os, pathlib; from genlib.engine.trackers import Trackers; "
        "Trackers((), pathlib.Path(), 'r', {}, 1); print(os.environ['LOCAL_RANK'], os.environ['PMI_SIZE'])"
    )
    left = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2", "MASTER_ADDR": "", "MASTER_PORT": ""}
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **left}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, ["1", "2"]), done.stderr
