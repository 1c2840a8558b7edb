"""Kill anything at any time, run the same command again: the same weights, no step missing or twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.jobs.runs import alive, descendants, finish, kill, launch, start, steps, wait_until, weights, workers

pytestmark = [pytest.mark.slow, pytest.mark.ray]
COMMAND = ("toy", "--run", "r", "--workers", "2", "--train.strategy", "zero2", "--task.seconds_per_step", "0.1", "--train.log_every_seconds", "0.2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    code, out, err = launch(*COMMAND, runs=runs)
    assert code == 0, out + err
    assert steps(runs / "r") == list(range(1, 61))
    return runs / "r"


@pytest.fixture
def moment() -> int:
    """The step at which to kill; its seed is printed where a test fails."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed).randint(3, 50)


def begun(process, run: Path, step: int) -> None:
    wait_until(lambda: process.poll() is not None or (steps(run) or [0])[-1] >= step)
    assert process.poll() is None, process.communicate()


def test_a_killed_worker_is_replaced_and_nothing_shows_it(tmp_path: Path, undisturbed: Path, moment: int) -> None:
    process = start(*COMMAND, runs=tmp_path)
    begun(process, tmp_path / "r", moment)
    kill(random.Random(moment).choice(workers(process.pid)))
    code, out, err = finish(process)
    assert code == 0, out + err
    assert "the run goes on from its newest checkpoint (retry 1 of 3)" in out
    assert steps(tmp_path / "r") == list(range(1, 61))
    assert weights(tmp_path / "r") == weights(undisturbed)


def test_a_killed_driver_leaves_nothing_behind_and_the_same_command_finishes_its_run(tmp_path: Path, undisturbed: Path, moment: int) -> None:
    process = start(*COMMAND, runs=tmp_path)
    begun(process, tmp_path / "r", moment)
    below = descendants(process.pid)
    assert len(workers(process.pid)) == 2
    kill(process.pid)
    process.communicate()
    wait_until(lambda: not any(map(alive, below)), timeout_seconds=20)
    code, out, err = launch(*COMMAND, runs=tmp_path)
    assert code == 0, out + err
    assert steps(tmp_path / "r") == list(range(1, 61))
    assert weights(tmp_path / "r") == weights(undisturbed)
    code, out, _ = launch(*COMMAND, runs=tmp_path)
    assert (code, out) == (0, f"run r is finished: 60 steps, 1,920 samples; delete {tmp_path / 'r'} or give another --run or --run-dir\n")
