"""Full disks and folders that go away under the jobs: one sentence, the right exit code, nothing lost; a few of them with all of Ray."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genlib.storage import StorageError
from jobs import log_file
from jobs.evaluations import Evaluations, evaluations
from jobs.exit_codes import exit_code
from jobs.log_file import LogFile, followed, log_path
from jobs.run_folder import begin, only_one, write_json
from tests.jobs.runs import alive, descendants, finish, launch, start, steps, wait_until
from tests.jobs.toy import stage
from tests.small_disk import SmallDisk, mounted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", 1500) as disk:
        yield disk


def test_no_print_fails_and_no_line_of_the_log_is_lost(disk: SmallDisk) -> None:
    log = LogFile(log_path(disk.path))
    for number in range(300):
        print(f"line {number}", "." * 50, file=log)
        if number == 50:
            disk.fill()
    assert len(log_path(disk.path).read_text().splitlines()) < 200
    disk.free()
    print("line 300", file=log)
    assert [int(line.split()[1]) for line in log_path(disk.path).read_text().splitlines()] == list(range(301))


def test_a_log_whose_folder_is_gone_is_nobodys_problem(tmp_path: Path) -> None:
    print("a line", file=LogFile(log_path(tmp_path / "gone")))
    assert not list(tmp_path.iterdir())


def test_the_terminal_says_once_why_it_is_silent(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(log_file, "_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(log_file, "POLL_SECONDS", 0.02)
    heard = ""

    def said(count: int) -> bool:
        nonlocal heard
        heard += capsys.readouterr().out
        return heard.count("the run goes on, and its lines wait") >= count

    with followed(log_path(disk.path)):
        log = LogFile(log_path(disk.path))
        print("before", file=log)
        for episode in (1, 2):
            disk.fill()
            while not log.file.waiting:
                print("x" * 4000, file=log)
            wait_until(lambda episode=episode: said(episode), 10)
            disk.free()
            print(f"after {episode}", file=log)
            wait_until(lambda: said(0) and heard.endswith(f"after {episode}\n"), 10)  # noqa: B023
    assert heard.count(f"{disk.path} cannot be written: No space left on device; the file system at {disk.path} has 0.0 MB of 1.5 MB free") == 2
    assert [path.name for path in disk.path.iterdir()] == ["log.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_what_a_disk_does_to_a_command_is_a_sentence(number: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def work() -> int:
        raise OSError(number, os.strerror(number), str(tmp_path / "file"))

    assert exit_code(work) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"{tmp_path / 'file'} cannot be written: {os.strerror(number)}; the file system at ")
    assert err.endswith("free; make room there, then the same command goes on\n")


def test_other_errors_are_not_taken_for_it() -> None:
    def work() -> int:
        raise FileNotFoundError(errno.ENOENT, "no such file", "a")

    with pytest.raises(FileNotFoundError):
        exit_code(work)


def test_a_run_that_is_there_begins_again_on_a_full_disk(disk: SmallDisk) -> None:
    run = disk.path / "run"
    begin(run, "toy", [stage()])
    (run / "checkpoints" / "step_00000010").mkdir(parents=True)
    disk.fill()
    with only_one(run):
        assert begin(run, "toy", [stage()]) is None
    with pytest.raises(OSError, match="No space left"):
        write_json(run / "metrics.json", {"words": ["." * 100] * 100})
    assert not list(run.glob(".*partial"))


def test_evaluations_wait(disk: SmallDisk, capsys: pytest.CaptureFixture) -> None:
    reached = Evaluations(disk.path)
    for step in range(1, 60):
        reached.add({"step": step, "val/loss": 1 / step, "words": "." * 200})
        if step == 5:
            disk.fill()
    assert capsys.readouterr().out.count("what the trial reached waits in memory") == 1
    assert [row["step"] for row in evaluations(disk.path)] == list(range(1, len(evaluations(disk.path)) + 1))
    disk.free()
    reached.add({"step": 60, "val/loss": 0.0})
    assert [row["step"] for row in evaluations(disk.path)] == list(range(1, 61))


def test_a_damaged_evaluation_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "evaluations.jsonl").write_bytes(b'{"step": 2, "val/x": 1.0}\n{"step": 4, "val/\xff": 1.0}\n{"stap": 6}\n7\n' + b"[" * 100_000)
    assert [row["step"] for row in evaluations(tmp_path)] == [2]


def test_a_trial_makes_no_search_where_there_is_none(tmp_path: Path) -> None:
    from jobs.trial import Trials, run_trial

    trials = Trials("toy", stage(), tmp_path / "gone", tmp_path / "data", {}, "val/loss", 1, {"CPU": 1.0}, False)
    with pytest.raises(StorageError, match=f"the folder {tmp_path / 'gone'} is gone"):
        run_trial({"trial": 0}, trials=trials)
    assert not list(tmp_path.iterdir())


SLOWLY = ("--task.seconds_per_step", "0.1", "--train.log_every_seconds", "0.2", "--train.trackers", "tensorboard")


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_outlives_a_full_disk(disk: SmallDisk) -> None:
    process = start("toy", "--run", "r", *SLOWLY, "--train.checkpoint_every_steps", "50", "--train.steps", "120", runs=disk.path)
    wait_until(lambda: len(steps(disk.path / "r")) > 3 or process.poll() is not None)
    disk.fill()
    time.sleep(4)  # some forty steps, of whose rows a page holds eleven
    disk.free()
    code, out, err = finish(process)
    assert (code, err) == (0, ""), out
    assert steps(disk.path / "r") == list(range(1, 121))
    assert "lost worker" not in out
    assert "Traceback" not in out


@pytest.mark.ray
@pytest.mark.slow
def test_a_disk_that_stays_full_costs_no_retries_and_the_same_command_goes_on(disk: SmallDisk) -> None:
    command = ("toy", "--run", "r", *SLOWLY)
    process = start(*command, runs=disk.path)
    wait_until(lambda: len(steps(disk.path / "r")) > 11 or process.poll() is not None)
    disk.fill()
    code, out, err = finish(process)
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("the run stopped: checkpoint step_000000")
    assert f"the file system at {disk.path} has 0.0 MB of 1.5 MB free; 3 saves in a row failed: make room there" in err
    assert "lost worker" not in out
    disk.free()
    code, out, err = launch(*command, runs=disk.path)
    assert (code, err) == (0, ""), out
    assert steps(disk.path / "r") == list(range(1, 61))


@pytest.mark.ray
@pytest.mark.slow
def test_scores_that_have_no_room_are_made_by_the_same_command(disk: SmallDisk) -> None:
    command = ("toy", "--run", "r", *SLOWLY, "--train.steps", "20")
    process = start(*command, runs=disk.path)
    log = disk.path / "r" / "log.txt"
    wait_until(lambda: (disk.path / "r" / "checkpoints" / "step_00000020").exists() or process.poll() is not None)
    disk.fill()
    code, out, err = finish(process)
    if code == 0:
        pytest.skip("it was faster")
    assert code == 1
    assert err.startswith("the run stopped: ")
    assert err.count("\n") == 1
    assert "No space left on device" in err
    assert "lost worker" not in out
    before = (disk.path / "r" / "metrics.jsonl").read_bytes()
    disk.free()
    code, out, err = launch(*command, runs=disk.path)
    assert (code, err) == (0, ""), out
    assert json.loads((disk.path / "r" / "metrics.json").read_text())["steps"] == 20
    assert (disk.path / "r" / "metrics.jsonl").read_bytes() == before
    assert log.exists()


def whole(run: Path) -> Path:
    return run


def checkpoints(run: Path) -> Path:
    return run / "checkpoints"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("which", [whole, checkpoints])
def test_a_folder_removed_under_a_run_is_a_sentence(tmp_path: Path, which: Callable[[Path], Path]) -> None:
    run = tmp_path / "r"
    process = start("toy", "--run", "r", *SLOWLY, "--workers", "2", "--train.steps", "600", runs=tmp_path)
    wait_until(lambda: len(steps(run)) > 3 or process.poll() is not None)
    below = descendants(process.pid)
    while which(run).exists():  # files come while others go
        shutil.rmtree(which(run), ignore_errors=True)
    code, out, err = finish(process)
    assert code == 1
    assert err == (
        f"the run stopped: the folder {which(run)} is gone: it was removed, renamed or unmounted while work went on in it; "
        "put it back, then the same command goes on, or give the command again to begin anew\n"
    )
    assert "lost worker" not in out
    assert not which(run).exists()
    wait_until(lambda: not any(map(alive, below)), timeout_seconds=20)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("what", ["s", "s/trials/T0"])
def test_a_folder_removed_under_a_search_is_a_sentence(tmp_path: Path, what: str) -> None:
    words = ("--trials", "2", "--concurrent", "1", "--run", "s", "--space", "task.hidden=4:16", "--task.seconds_per_step", "0.1")
    process = start("tune", "toy", *words, runs=tmp_path)
    wait_until(lambda: (tmp_path / "s" / "trials" / "T0" / "evaluations.jsonl").exists() or process.poll() is not None)
    while (tmp_path / what).exists():  # files come while others go
        shutil.rmtree(tmp_path / what, ignore_errors=True)
    code, _, err = finish(process)
    assert code == 1
    assert err.splitlines()[-1].partition("the folder ")[2].startswith(f"{tmp_path / 's'}")
    assert "is gone: it was removed, renamed or unmounted" in err
    assert "Traceback" not in err
    assert not (tmp_path / what).exists()
