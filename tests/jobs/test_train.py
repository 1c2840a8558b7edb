"""A run through Ray Train from command to metrics, and what a user reads where it cannot be; one head for all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.local import Head, local_head
from genlib.data.shards.writer import png, write_shards
from genlib.phases import PHASE
from tests.jobs.runs import finish, kill, launch, start, steps, wait_until

pytestmark = pytest.mark.ray
LINE = re.compile(r"step +\d+/60 +[\d,]+ samples +[\d,]+/s \([\d,]+ per worker\)  data \d+%  loss [\d.]+  lr [\d.e-]+  ETA \d:\d\d:\d\d")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with local_head(cpus=2, dashboard=False) as head:
        yield head


def test_a_run_is_quiet_ends_with_its_scores_and_is_then_finished(head: Head, tmp_path: Path) -> None:
    command = ("toy", "--workers", "2", "--train.strategy", "zero2", "--run", "r")
    code, out, err = launch(*command, runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err) == (0, "")
    environment, first, again, *lines = out.splitlines()
    at = lines.index("evaluating")
    assert first == f"run r in {tmp_path / 'r'}"
    assert again == "command: python jobs/train.py toy --workers 2 --train.strategy zero2 --run r"
    phases = [found[2] for line in (environment, *lines[:5], lines[at + 1]) if (found := PHASE.fullmatch(line))]
    assert phases.pop(1).startswith(
        "data: 1,442 samples of 1 shard (train-00000.tar), fields image, label, text; captions from KEY.txt; labels 0 to 9;"
    )
    assert phases == ["environment", "Ray", "2 workers on cpu", "model: Toy, 1,096 weights; zero2", "first step", "scores and export"]
    assert lines[5:at]
    assert [line for line in lines[5:at] if not LINE.fullmatch(line)] == []
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert [line.split()[0] for line in lines[at + 2 : -1]] == list(metrics)
    assert lines[-1] == f"curves, pictures and all else on one page: python jobs/report.py {tmp_path / 'r'}"
    assert metrics["digits/mse"] < 0.1
    assert (metrics["steps"], metrics["samples_seen"], metrics["workers"], metrics["strategy"]) == (60, 1920, 2, "zero2")
    assert steps(tmp_path / "r") == list(range(1, 61))
    assert (tmp_path / "r" / "export" / "README.md").exists()
    assert sorted(path.name for path in (tmp_path / "r").iterdir() if not path.name.endswith("lock")) == [
        "card", "checkpoints", "export", "launches.jsonl", "log", "log.txt", "metrics.json", "metrics.jsonl", "run.json", "timeline.jsonl",
    ]  # fmt: skip
    code, out, _ = launch(*command, runs=tmp_path, RAY_ADDRESS=head.address)
    assert code == 0
    assert out.startswith("run r is finished: 60 steps, 1,920 samples; delete ")


@pytest.mark.slow
def test_stages_train_in_turn_on_any_number_of_workers(head: Head, tmp_path: Path) -> None:
    code, out, err = launch("chain", "--workers", "1:8", "--cpus-per-worker", "1", runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err) == (0, ""), out
    metrics = json.loads((tmp_path / "chain" / "metrics.json").read_text())
    assert metrics["first/steps"] == metrics["steps"] == 60
    assert metrics["workers"] in (1, 2)
    assert steps(tmp_path / "chain" / "first") == steps(tmp_path / "chain" / "second") == list(range(1, 61))


def test_a_workers_sentence_reaches_the_user_without_retries(head: Head, tmp_path: Path) -> None:
    code, out, err = launch("toy", "--task.fault", "value", "--workers", "2", runs=tmp_path, RAY_ADDRESS=head.address)
    assert code == 2
    assert f"\nrun toy in {tmp_path / 'toy'}\ncommand: python jobs/train.py toy --task.fault value --workers 2\n" in out
    assert [found[2].partition(":")[0] for line in out.splitlines() if (found := PHASE.fullmatch(line))] == [
        "environment",
        "data",
        "Ray",
        "2 workers on cpu",
    ]
    assert err == "hidden units of this kind do not exist; use others\n"
    assert "Traceback" in (tmp_path / "toy" / "error.log").read_text()


@pytest.mark.slow
def test_a_strategy_that_is_refused_leaves_a_finished_run_as_it_was(head: Head, tmp_path: Path) -> None:
    command = ("wgan_gp", "--smoke", "--train.steps", "2", "--run", "r")
    assert launch(*command, runs=tmp_path, RAY_ADDRESS=head.address)[0] == 0
    run = tmp_path / "r"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.endswith("lock")}
    code, _, err = launch(*command, "--train.steps", "4", "--train.strategy", "zero3", runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err.startswith("WGANGP cannot train under zero3: ")) == (2, True), err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.endswith("lock")} == before
    code, out, _ = launch(*command, runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, out.startswith("run r is finished: 2 steps")) == (0, True)
    code, _, err = launch(*command, "--train.strategy", "zero3", "--run", "fresh", runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, (tmp_path / "fresh").exists()) == (2, False), err


@pytest.mark.slow
def test_an_error_that_may_pass_is_retried_and_then_told(head: Head, tmp_path: Path) -> None:
    code, out, err = launch("toy", "--task.fault", "runtime", "--retries", "1", runs=tmp_path, RAY_ADDRESS=head.address)
    assert code == 1
    assert "lost worker 0; the run goes on from its newest checkpoint (retry 1 of 1)" in out
    log = tmp_path / "toy" / "error.log"
    assert err == f"the run stopped: RuntimeError: worker 0: something broke (more in {log}); the same command resumes it\n"
    assert log.read_text().count("Traceback") == 2


@pytest.mark.slow
def test_more_workers_than_the_cluster_can_hold_and_data_that_is_not_there(head: Head, tmp_path: Path) -> None:
    code, _, err = launch("toy", "--workers", "3", runs=tmp_path, RAY_ADDRESS=head.address)
    assert code == 2
    assert err.startswith("3 workers of 1 CPU each can never run: the cluster has 2 CPU on 1 node; ask for fewer --workers")
    code, _, err = launch("toy", "--data.train", str(tmp_path / "nothing"), runs=tmp_path, RAY_ADDRESS=head.address)
    assert code == 2
    assert "there are no shards" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_running_run_is_refused_until_its_driver_is_gone(head: Head, tmp_path: Path) -> None:
    command = ("toy", "--task.seconds_per_step", "0.2")
    first = start(*command, runs=tmp_path, RAY_ADDRESS=head.address)
    try:
        wait_until(lambda: steps(tmp_path / "toy"))
        code, _, err = launch(*command, runs=tmp_path, RAY_ADDRESS=head.address)
        assert code == 2
        assert err.startswith(f"run toy is running (pid {first.pid} on ")
    finally:
        kill(first.pid)
        finish(first)
    code, out, err = launch(*command, runs=tmp_path, RAY_ADDRESS=head.address)
    assert (code, err) == (0, ""), out
    assert steps(tmp_path / "toy") == list(range(1, 61))


def test_data_that_a_later_stage_cannot_use_is_refused_before_any_trains(head: Head, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_shards(shards, "train", [{"png": png(np.zeros((16, 16, 3), np.uint8))} for _ in range(8)])
    code, _, err = launch("ldm_tiny", "--smoke", "--denoiser.data.train", str(shards), runs=tmp_path, RAY_ADDRESS=head.address)
    assert code == 2
    assert err.startswith("latent diffusion learns from captions, but the samples have none")
    assert not list((tmp_path / "ldm_tiny").glob("*/checkpoints"))
