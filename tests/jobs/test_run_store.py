"""A run in an object store whose nodes share no disk: whatever is killed or lost, the same command ends with the same weights."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genlib import checkpoint
from genlib.remote.store_folder import StoreFolder
from tests.jobs.runs import alive, descendants, finish, kill, launch, start, wait_until, weights, workers
from tests.remote.servers import object_store

pytestmark = [pytest.mark.slow, pytest.mark.ray]
OPTIONS = ("--workers", "2", "--train.strategy", "zero2", "--task.seconds_per_step", "0.1", "--train.log_every_seconds", "0.2")
SLOW = (*OPTIONS, "--task.seconds_per_step", "1.0")
NODES = """
import os, sys
if any("default_worker.py" in word for word in sys.orig_argv):  # every process of Ray's is as one on a node of its own, which was empty
    os.environ["GENLIB_CACHE"] = os.path.join(os.environ["GENLIB_CACHE"], f"node-{os.getpid()}")
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    code, out, err = launch("toy", "--run", "r", *OPTIONS, runs=runs)
    assert code == 0, out + err
    return runs / "r"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StoreFolder]:
    """A run's folder in a bucket of its own, and nodes without a shared disk."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(NODES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{Path(__file__).parents[2]}")
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    bucket = f"runs-{time.time_ns()}"
    with object_store(monkeypatch) as client:
        client.create_bucket(Bucket=bucket)
        yield StoreFolder(f"s3://{bucket}/runs/r")


def steps(run: StoreFolder) -> list[int]:
    """The steps in metrics.jsonl."""
    found = run.read("metrics.jsonl")
    return [json.loads(line)["step"] for line in found[0].splitlines()] if found else []


def sealed(run: StoreFolder) -> list[str]:
    return checkpoint.sealed((run / "checkpoints").files())


def final_weights(run: StoreFolder, folder: Path) -> str:
    """Digest of the newest checkpoint's weights, brought from the store."""
    name = sealed(run)[0]
    checkpoint.bring(run / "checkpoints" / name, folder / "checkpoints" / name)
    return weights(folder)


def begin(run: StoreFolder, tmp_path: Path, options: tuple[str, ...] = OPTIONS) -> Any:
    """A launch whose first checkpoint is sealed."""
    process = start("toy", "--run-dir", run.url, *options, runs=tmp_path)
    wait_until(lambda: process.poll() is not None or sealed(run))
    assert process.poll() is None, process.communicate()
    return process


def check_finished(run: StoreFolder, tmp_path: Path, undisturbed: Path, options: tuple[str, ...] = OPTIONS) -> None:
    assert steps(run) == list(range(1, 61))
    assert final_weights(run, tmp_path / "final") == weights(undisturbed)
    code, out, err = launch("toy", "--run-dir", run.url, *options, runs=tmp_path)
    assert (code, out) == (0, f"run r is finished: 60 steps, 1,920 samples; delete {run} or give another --run or --run-dir\n"), err


def test_a_killed_driver_whose_machine_is_lost_too_is_replaced_by_the_same_command(tmp_path: Path, run: StoreFolder, undisturbed: Path) -> None:
    process = begin(run, tmp_path)
    time.sleep(random.uniform(0, 3))
    below = descendants(process.pid)
    kill(process.pid)
    process.communicate()
    wait_until(lambda: not any(map(alive, below)), timeout_seconds=20)
    shutil.rmtree(tmp_path / "cache")
    code, out, err = launch("toy", "--run-dir", run.url, *OPTIONS, runs=tmp_path)
    assert code == 0, out + err
    assert "resumed from step_000000" in out
    assert "evaluating" in out
    check_finished(run, tmp_path, undisturbed)
    log = run.read("log.txt")
    assert log is not None
    assert b"resumed from step_000000" in log[0]
    assert {"run.json", "metrics.json", "launches.jsonl", "timeline.jsonl"} <= run.files().keys()


def test_a_lost_node_is_replaced_by_an_empty_one(tmp_path: Path, run: StoreFolder, undisturbed: Path) -> None:
    process = begin(run, tmp_path)
    kill(random.choice(workers(process.pid)))
    code, out, err = finish(process)
    assert code == 0, out + err
    assert "the run goes on from its newest checkpoint (retry 1 of 3)" in out
    check_finished(run, tmp_path, undisturbed)


def test_a_run_that_is_stopped_saves_and_a_second_launch_beside_it_is_refused(tmp_path: Path, run: StoreFolder, undisturbed: Path) -> None:
    process = begin(run, tmp_path, SLOW)
    code, out, err = launch("toy", "--run-dir", run.url, *SLOW, runs=tmp_path, GENLIB_CACHE=str(tmp_path / "another machine"))
    assert code == 2, out + err
    assert f"run r is running (pid {process.pid} on " in err
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 143, out + err
    kept = sealed(run)[0]
    assert f"stopped: checkpoints/{kept} is kept in {run}; the same command resumes it" in err
    code, out, err = launch("toy", "--run-dir", run.url, *SLOW, runs=tmp_path)
    assert code == 0, out + err
    assert f"resumed from {kept}" in out
    check_finished(run, tmp_path, undisturbed, SLOW)


def test_a_stage_learns_from_the_one_before_on_nodes_that_share_nothing(tmp_path: Path, run: StoreFolder) -> None:
    words = ("chain", "--workers", "2", "--first.train.strategy", "zero2", "--second.train.strategy", "ddp")
    code, out, err = launch(*words, "--run", "disk", runs=tmp_path)
    assert code == 0, out + err
    code, out, err = launch(*words, "--run-dir", run.url, runs=tmp_path)
    assert code == 0, out + err
    for stage in ("first", "second"):
        assert final_weights(run / stage, tmp_path / "final" / stage) == weights(tmp_path / "disk" / stage)
        assert json.loads((run / stage).read("metrics.json")[0])["steps"] == 60  # type: ignore[index]
    found = json.loads(run.read("metrics.json")[0])  # type: ignore[index]
    assert {"first/digits/mse", "digits/mse"} <= found.keys()
    code, out, err = launch(*words, "--run-dir", run.url, runs=tmp_path)
    assert (code, out[:21]) == (0, "run r is finished: 60"), err
    code, out, err = launch(*words, "--run-dir", run.url, "--first.task.hidden", "9", runs=tmp_path)
    assert code == 2, out + err
    assert f"run r was started with --first.task.hidden = 8, now it is 9; restore it, give another --run or --run-dir, or delete {run}; " in err
    assert f"another run can start from its weights: --first.train.start-from {run}/first" in err


def test_a_longer_run_takes_back_its_scores(tmp_path: Path, run: StoreFolder) -> None:
    words = ("toy", "--run-dir", run.url, "--workers", "1")
    for steps_asked in (20, 30):
        code, out, err = launch(*words, "--train.steps", str(steps_asked), runs=tmp_path)
        assert code == 0, out + err
        assert json.loads(run.read("metrics.json")[0])["steps"] == steps_asked  # type: ignore[index]
    assert "resumed from step_00000020" in out
