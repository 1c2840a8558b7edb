"""On a machine of one's own nothing can be reached from another: while it starts, while it runs, and afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.local import PREFIX, RENDEZVOUS, Starting, environment, hold, launch, started
from tests.cluster.listening import Socket, Watch
from tests.jobs.runs import ROOT, finish, start, steps, wait_until
from tests.models.stages import train_stages

pytestmark = pytest.mark.ray
OF_A_CLUSTER = {"GLOO_SOCKET_IFNAME": "nowhere0", "NCCL_SOCKET_IFNAME": "nowhere0"}
"""What a user may have set for a cluster: an interface on which nobody listens here."""


def test_one_process_listens_on_loopback_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, watch, address):
        with urllib.request.urlopen(address + "/v1/models", timeout=30) as answer:
            assert json.loads(answer.read())["data"]
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert [one.address for one in watch.seen.values()] == ["127.0.0.1"]
    assert not watch.of("gcs_server")


@pytest.mark.slow
def test_only_what_the_library_has_no_option_for_listens_beyond_loopback_while_serving(served: tuple[Watch, str]) -> None:
    import ray

    watch, address = served
    with urllib.request.urlopen(address + "/v1/models", timeout=30) as answer:
        assert json.loads(answer.read())["data"]
    assert watch.of("gcs_server")
    assert {one.protocol for one in watch.of("haproxy")} == {"tcp"}
    assert not watch.of("ray.util.client.server"), "nobody comes by ray://"
    assert not any(one.beyond_loopback for one in watch.of("-m serve"))
    # ray 2.60.0, serve/_private/replica.py: each replica's server for calls of other replicas is at "[::]:0", whatever is set
    assert ray.__version__ == "2.60.0", "look whether there is an option now; cluster/local.py says that there is none"
    open_to_all = watch.beyond_loopback()
    assert [(one.command.split(":")[2], one.protocol) for one in open_to_all] == [("ServeReplica", "tcp")] * 2


def test_what_listens_beyond_loopback_runs_nothing_for_who_does_not_know_the_token(served: tuple[Watch, str]) -> None:
    import grpc
    from ray.serve.generated.serve_pb2 import DESCRIPTOR

    watch, _ = served
    replica, *_ = watch.beyond_loopback()
    (service,) = (one for one in DESCRIPTOR.services_by_name.values() if one.name == "ASGIService")
    with grpc.insecure_channel(f"127.0.0.1:{replica.port}") as channel:

        def told(method, *metadata: tuple[str, str]) -> grpc.StatusCode:
            ask = (channel.unary_stream if method.server_streaming else channel.unary_unary)(f"/{service.full_name}/{method.name}")
            try:
                answer = ask(b"", metadata=metadata, timeout=10)
                list(answer) if method.server_streaming else answer
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        for method in service.methods:
            assert told(method) == grpc.StatusCode.UNAUTHENTICATED
            assert told(method, ("authorization", "Bearer " + "0" * 64)) == grpc.StatusCode.UNAUTHENTICATED
            # with the token it is looked at, and is no call
            assert told(method, ("authorization", "Bearer " + token_of(replica))) == grpc.StatusCode.UNKNOWN


def test_nothing_listens_after_serving(server: tuple[subprocess.Popen, Watch, str]) -> None:
    process, watch, _ = server
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    wait_until(lambda: not watch.left(), timeout_seconds=20)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--workers", "2", "--train.strategy", "zero2", "--data.readers", "2"), ()], ids=["two workers", "one"])
def test_training(tmp_path: Path, words: tuple[str, ...]) -> None:
    process = start("toy", *words, runs=tmp_path, **OF_A_CLUSTER)
    with Watch(process.pid) as watch:
        wait_until(lambda: process.poll() is not None or watch.of("gcs_server"))
        assert not steps(tmp_path / "toy"), "the watch began before the run"
        code, out, err = finish(process)
    assert (code, err) == (0, ""), out
    assert watch.of("RayTrainWorker")
    assert watch.beyond_loopback() == []
    wait_until(lambda: not watch.left(), timeout_seconds=20)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_tuning(tmp_path: Path, workers: str) -> None:
    words = ("--space", "task.hidden=2:16", "--train.steps", "18", "--trials", "2", "--workers", workers)
    process = start("tune", "toy", *words, runs=tmp_path, **OF_A_CLUSTER)
    with Watch(process.pid) as watch:
        code, out, err = finish(process)
    assert (code, err) == (0, ""), out
    assert watch.of("gcs_server")
    assert watch.of("RayTrainWorker" if workers == "2" else "ray::ImplicitFunc")
    assert watch.beyond_loopback() == []
    wait_until(lambda: not watch.left(), timeout_seconds=20)


@pytest.mark.slow
def test_a_cluster_keeps_the_rendezvous_of_ray_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch sees what listens beyond loopback: there torch's store does, which the workers of other nodes have to reach."""
    running: list[Starting] = []
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, hold(Path(folder)), environment(Path(folder)):
        monkeypatch.delenv(RENDEZVOUS)
        try:
            wanted = (2, None, False)
            launch(running, Path(folder), wanted)
            head = started(running, Path(folder), wanted, time.monotonic() + 120)
            with Watch(head.pid) as watch:
                code, out, err = finish(start("toy", "--workers", "2", runs=tmp_path, RAY_ADDRESS=head.address))
        finally:
            for one in running:
                one.end()
        monkeypatch.undo()
    assert (code, err) == (0, ""), out
    assert steps(tmp_path / "toy") == list(range(1, 61))
    (store,) = watch.beyond_loopback()
    assert "RayTrainWorker" in store.command


@contextmanager
def serving(root: Path, *options: str) -> Iterator[tuple[subprocess.Popen, Watch, str]]:
    """`python -m serve` of a tiny run, watched from its start on, and its address."""
    run = next(iter(train_stages("gan", root / "gan").values())).parents[1]
    words = [sys.executable, "-m", "serve", str(run), "--port", "0", *options]
    process = subprocess.Popen(words, cwd=ROOT, env={**os.environ, "GENLIB_RUNS": str(root)}, stdout=subprocess.PIPE, text=True)
    with Watch(process.pid) as watch:
        line = process.stdout.readline()
        assert " at http://127.0.0.1:" in line, line
        yield process, watch, line.split()[-1]
    if process.poll() is None:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, Watch, str]]:
    """Two replicas."""
    with serving(tmp_path_factory.mktemp("served"), "--replicas", "2", "--cpus-per-replica", "0.5") as found:
        yield found


@pytest.fixture
def served(server: tuple[subprocess.Popen, Watch, str]) -> tuple[Watch, str]:
    """The watch, and the server's address."""
    return server[1:]


def token_of(one: Socket) -> str:
    """The token of the head that the process belongs to."""
    words = Path(f"/proc/{one.pid}/environ").read_bytes().split(b"\0")
    (path,) = (word.partition(b"=")[2].decode() for word in words if word.startswith(b"RAY_AUTH_TOKEN_PATH="))
    return Path(path).read_text()
