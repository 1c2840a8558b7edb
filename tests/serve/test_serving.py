"""`python -m serve` as a user runs it: replicas killed and runs going on under load cost no request, and nothing outlives it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.runs import ROOT, alive, descendants, kill, wait_until
from tests.models.stages import train_stages

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@dataclass
class Server:
    """A running one."""

    process: subprocess.Popen
    address: str
    run: Path
    newer: Path
    """A checkpoint that the run does not have yet."""

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def replicas(self) -> set[int]:
        """Pids of the processes that hold models."""
        found = set()
        for pid in descendants(self.process.pid):
            try:
                if b"ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(pid)
            except OSError:
                continue
        return found


@dataclass
class Load:
    """Clients that ask for pictures, each with seeds of its own, until it is over."""

    server: Server
    clients: int = 4
    pictures: dict[int, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    over: bool = False

    def __enter__(self) -> Load:
        self.threads = [threading.Thread(target=self.ask, args=(client,)) for client in range(self.clients)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        for thread in self.threads:
            thread.join()

    def ask(self, client: int) -> None:
        seed = client
        while not self.over:
            try:
                made = self.server.post("/v1/images/generations", model="ddpm", n=1, seed=seed, num_inference_steps=8, prompt="3")
                self.pictures[seed] = made["data"][0]["b64_json"]
            except urllib.error.HTTPError as error:
                if error.code == 503 and error.headers["Retry-After"]:  # the client is told to come again, and does
                    time.sleep(min(2.0, float(error.headers["Retry-After"])))
                    continue
                self.failures.append(f"{error.code} {error.read()[:200]!r}")
            except OSError as error:
                self.failures.append(repr(error))
            seed += self.clients


@contextmanager
def serving(root: Path, *options: str) -> Iterator[Server]:
    """A server of a run that has the first of its two checkpoints."""
    folder = next(iter(train_stages("ddpm", root / "trained").values())).parents[1]
    older, newer = sorted((folder / "checkpoints").glob("step_*"))
    run = root / "ddpm"
    shutil.copytree(older, run / "checkpoints" / older.name)
    words = [sys.executable, "-m", "serve", str(run), "--port", "0", "--reload-seconds", "1", "--cpus-per-replica", "0.5", *options]
    words += ["--grace-seconds", "100"]  # other tests run beside this one
    environment = {**os.environ, "GENLIB_RUNS": str(root / "runs")}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=(root / "stderr.txt").open("w"), text=True)
    line = process.stdout.readline()
    assert line.startswith("serving ddpm at http://127.0.0.1:"), line
    yield Server(process, line.split()[-1], run, newer)
    below = descendants(process.pid)
    process.terminate()
    assert process.wait(timeout=120) == 143
    said = [line for line in (root / "stderr.txt").read_text().splitlines() if not line.startswith("{")]
    assert said[0] == "SIGTERM: ending within 100 s; a second signal ends at once"
    assert said[1].startswith("stopped; jobs are kept in ")
    assert len(said) == 2, said
    wait_until(lambda: not any(map(alive, below)), timeout_seconds=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("runs"), "--replicas", "2") as made:
        yield made


def test_a_killed_replica_costs_no_request_and_changes_no_picture(server: Server) -> None:
    wait_until(lambda: len(server.replicas()) == 2)
    with Load(server) as load:
        wait_until(lambda: len(load.pictures) >= 8)
        before = server.replicas()
        kill(min(before))
        known = len(load.pictures)
        wait_until(lambda: len(load.pictures) >= known + 20)
        wait_until(lambda: len(server.replicas() - before) == 1, timeout_seconds=120)
    assert load.failures == []
    for seed in list(load.pictures)[:3]:
        again = server.post("/v1/images/generations", model="ddpm", n=1, seed=seed, num_inference_steps=8, prompt="3")
        assert again["data"][0]["b64_json"] == load.pictures[seed]


def test_a_run_that_goes_on_is_served_at_its_new_step_without_a_failed_request(server: Server) -> None:
    (step,) = {model["step"] for model in server.get("/v1/models")["data"]}
    with Load(server) as load:
        wait_until(lambda: len(load.pictures) >= 4)
        partial = server.run / "checkpoints" / ".arriving"
        shutil.copytree(server.newer, partial)
        partial.rename(server.run / "checkpoints" / server.newer.name)
        wait_until(lambda: server.get("/v1/models")["data"][0]["step"] > step)
        known = len(load.pictures)
        wait_until(lambda: len(load.pictures) >= known + 8)
    assert load.failures == []


def test_a_request_that_runs_when_the_server_is_stopped_is_answered(tmp_path: Path) -> None:
    answers: list[Any] = []
    with serving(tmp_path) as server:
        body = {"model": "ddpm", "n": 32, "seed": 1, "num_inference_steps": 200, "prompt": "3"}
        client = threading.Thread(target=lambda: answers.append(server.post("/v1/images/generations", **body)))
        client.start()
        time.sleep(0.5)
        assert not answers
    client.join(timeout=120)
    assert len(answers[0]["data"]) == 32


def test_a_second_replica_comes_with_the_load(tmp_path: Path) -> None:
    with serving(tmp_path, "--replicas", "1:2") as server, Load(server, clients=24) as load:
        assert len(server.replicas()) == 1
        wait_until(lambda: len(server.replicas()) == 2, timeout_seconds=120)
        known = len(load.pictures)
        wait_until(lambda: len(load.pictures) >= known + 50, timeout_seconds=120)
    assert load.failures == []
