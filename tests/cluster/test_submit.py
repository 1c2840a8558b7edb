"""The road of `make clip`: a head of its own, the job API, the log on the terminal, the exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genlib.data.builtin.catalog import prepared
from genlib.phases import PHASE
from tests.cluster.listening import Watch
from tests.jobs.runs import ROOT, SCRIPT, alive, descendants, finish, steps, wait_until

pytestmark = pytest.mark.ray


def submit(*words: str, runs: Path) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.submit", "--", "python", SCRIPT, *words], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**environment, "GENLIB_RUNS": str(runs)},
    )  # fmt: skip


def test_a_job_trains_in_the_folder_of_the_user_and_nothing_is_left(tmp_path: Path) -> None:
    prepared("digits")  # where the set is not there yet, the run says that it makes it
    process = submit("toy", "--workers", "2", runs=tmp_path)
    with Watch(process.pid) as watch:
        wait_until(lambda: process.poll() is not None or steps(tmp_path / "toy"))
        below = descendants(process.pid)
        code, out, err = finish(process)
    assert (code, err) == (0, ""), out
    said = [found[2].partition(" ")[0] for line in out.splitlines() if (found := PHASE.fullmatch(line))]
    assert said == ["Ray", "job", "environment", "data:", "Ray", "2", "model:", "first", "scores"]
    assert f"\nrun toy in {tmp_path / 'toy'}\ncommand: python jobs/train.py toy --workers 2\n" in out
    assert "digits/mse" in out
    assert (tmp_path / "toy" / "metrics.json").exists()
    wait_until(lambda: not any(map(alive, below)), timeout_seconds=10)
    assert watch.of("RayTrainWorker")
    assert watch.beyond_loopback() == watch.left() == []


@pytest.mark.slow
def test_the_exit_code_and_the_sentence_of_the_job_are_the_users(tmp_path: Path) -> None:
    code, out, err = finish(submit("toi", runs=tmp_path))
    assert code == 2
    said = [line for line in (out + err).splitlines() if line and not PHASE.fullmatch(line)]
    assert said == ["there is no recipe 'toi'. Did you mean 'toy'? `python jobs/train.py --list` shows all"]


@pytest.mark.slow
def test_ctrl_c_ends_the_job_and_the_head(tmp_path: Path) -> None:
    process = submit("toy", "--task.seconds_per_step", "1", runs=tmp_path)
    wait_until(lambda: process.poll() is not None or steps(tmp_path / "toy"))
    below = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process, timeout_seconds=60)
    assert code == 130, out + err
    assert re.search(r"^stopped: step_\d{8} of 60 steps is kept in .*; the same command resumes it$", out, re.MULTILINE)
    assert err.startswith("SIGINT: ending within 35 s; a second signal ends at once\n")
    wait_until(lambda: not any(map(alive, below)), timeout_seconds=20)
