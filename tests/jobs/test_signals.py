"""SIGTERM and Ctrl-C: a checkpoint, one line, the shell's exit code, nothing left running; the same command goes on to the same weights."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.jobs.runs import alive, descendants, finish, launch, start, steps, wait_until, weights, workers

pytestmark = pytest.mark.ray
COMMAND = ("toy", "--run", "r", "--workers", "2", "--train.strategy", "zero2", "--task.seconds_per_step", "0.1", "--train.log_every_seconds", "0.2")
NEVER_SAVES = ("--train.checkpoint_every_steps", "0")
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    code, out, err = launch(*COMMAND, *NEVER_SAVES, runs=runs)
    assert code == 0, out + err
    return runs / "r"


def reach(process: subprocess.Popen, run: Path, step: int) -> set[int]:
    """Waits for the step; the processes below."""
    wait_until(lambda: process.poll() is not None or (steps(run) or [0])[-1] >= step)
    assert process.poll() is None, process.communicate()
    return descendants(process.pid)


def nothing_left(below: set[int]) -> None:
    wait_until(lambda: not any(map(alive, below)), timeout_seconds=20)


def stopped(runs: Path, number: signal.Signals, step: int) -> str:
    """Stops a run at that step; the step that it kept, as its folder is named."""
    process = start(*COMMAND, *NEVER_SAVES, "--grace-seconds", "100", runs=runs)  # other tests run beside this one
    below = reach(process, runs / "r", step)
    process.send_signal(number)
    code, out, err = finish(process, timeout_seconds=120)
    assert code == CODES[number], out + err
    said = err.splitlines()
    assert said[0] == f"{number.name}: ending within 100 s; a second signal ends at once"
    kept = re.fullmatch(r"stopped: step_(\d{8}) of 60 steps is kept in .*/r/checkpoints; the same command resumes it", said[1])
    assert len(said) == 2, err
    assert kept
    assert int(kept[1]) >= step
    assert steps(runs / "r") == list(range(1, int(kept[1]) + 1))
    nothing_left(below)
    return kept[1]


def test_sigterm_keeps_what_was_trained(tmp_path: Path) -> None:
    stopped(tmp_path, signal.SIGTERM, random.randint(2, 40))


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda one: one.name)
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, undisturbed: Path, number: signal.Signals) -> None:
    kept = stopped(tmp_path, number, random.randint(2, 40))
    code, out, err = launch(*COMMAND, *NEVER_SAVES, runs=tmp_path)
    assert code == 0, out + err
    assert f"resumed from step_{kept}" in out
    assert steps(tmp_path / "r") == list(range(1, 61))
    assert weights(tmp_path / "r") == weights(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
def test_a_signal_at_any_moment_of_the_start_ends_it(tmp_path: Path, undisturbed: Path, seconds: float) -> None:
    process = start(*COMMAND, *NEVER_SAVES, runs=tmp_path)
    time.sleep(seconds + random.random())
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process, timeout_seconds=40)
    assert code in (143, -signal.SIGTERM), out + err  # before Python listens the system ends it
    assert "Traceback" not in out + err
    assert len(err.splitlines()) <= 2
    nothing_left(below)
    code, out, err = launch(*COMMAND, *NEVER_SAVES, runs=tmp_path)
    assert code == 0, out + err
    assert weights(tmp_path / "r") == weights(undisturbed)


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    process = start(*COMMAND, "--task.seconds_per_step", "20", runs=tmp_path)
    wait_until(lambda: workers(process.pid))
    time.sleep(8)
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process, timeout_seconds=20)
    assert code == 130
    assert time.monotonic() - began < 2
    assert err == "SIGTERM: ending within 25 s; a second signal ends at once\n"
    nothing_left(below)


@pytest.mark.slow
def test_a_step_longer_than_the_grace_time_is_not_waited_for(tmp_path: Path) -> None:
    process = start(*COMMAND, "--task.seconds_per_step", "60", "--grace-seconds", "3", runs=tmp_path)
    wait_until(lambda: workers(process.pid))
    time.sleep(8)
    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process, timeout_seconds=20)
    assert code == 143, out + err
    assert err.splitlines()[1] == "stopped before the first checkpoint; the same command begins again"
    nothing_left(below)


@pytest.mark.slow
def test_a_worker_alone_is_replaced(tmp_path: Path, undisturbed: Path) -> None:
    process = start(*COMMAND, "--train.checkpoint_every_steps", "10", runs=tmp_path)
    reach(process, tmp_path / "r", random.randint(12, 40))
    os.kill(random.choice(workers(process.pid)), signal.SIGTERM)
    code, out, err = finish(process)
    assert (code, err) == (0, ""), out + err
    assert "the run goes on from its newest checkpoint (retry 1 of 3)" in out
    assert steps(tmp_path / "r") == list(range(1, 61))
    assert weights(tmp_path / "r") == weights(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("workers_each", ["1", "2"])
def test_a_search_keeps_a_checkpoint_of_every_trial_that_runs(tmp_path: Path, workers_each: str) -> None:
    words = ("tune", "toy", "--run", "s", "--space", "task.hidden=2:16", "--trials", "2", "--scheduler", "none", "--evaluations", "1")
    command = (*words, "--workers", workers_each, "--task.seconds_per_step", "0.1", "--train.log_every_seconds", "0.2")
    process = start(*command, runs=tmp_path)
    trial = tmp_path / "s" / "trials" / "T0"
    below = reach(process, trial, random.randint(2, 40))
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process, timeout_seconds=40)
    assert code == 143, out + err
    assert err.splitlines() == [
        "SIGTERM: ending within 25 s; a second signal ends at once",
        f"stopped: all trials' newest checkpoints are kept in {tmp_path / 's'}; the same command goes on",
    ]
    nothing_left(below)
    (kept,) = (trial / "checkpoints").glob("step_*")
    assert steps(trial) == list(range(1, int(kept.name.removeprefix("step_")) + 1))
    code, out, err = launch(*command, runs=tmp_path)
    assert code == 0, out + err
    assert steps(trial) == list(range(1, 61))
    assert f"resumed from {kept.name}" in "".join(path.read_text() for path in trial.glob("log*.txt"))
