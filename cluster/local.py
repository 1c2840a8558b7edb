"""A Ray head on this machine alone: on 127.0.0.1, behind a token, on its own ports and in its own temporary folder.

It lives as long as the process that started it, however that one ends, and is ended by pid: other Rays on the machine are left alone.

Everything under it listens on 127.0.0.1 alone (`tests/cluster/test_listening.py`), with one exception: in Ray 2.60.0 each replica of
Ray Serve opens a gRPC server for calls of other replicas on a free port of every address, and no option says otherwise. It refuses whoever
does not know the token before it looks at what is asked.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.signals import GRACE_SECONDS

HOST = "127.0.0.1"
INTERFACE = "lo" if sys.platform == "linux" else "lo0"
"""The network interface of that address."""
RENDEZVOUS = "GENLIB_RENDEZVOUS"
"""In the environment of a head of our own and its workers, and of no other: a folder in which processes that train together meet."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Training sends nothing large through Ray's object store."""
PREFIX = "genlib-ray-"
TIMEOUT_SECONDS = 180.0
"""In which a head comes up."""


@dataclass(frozen=True, slots=True)
class Head:
    """A running head: where Ray listens, where its job API does (empty without dashboard), and its files."""

    address: str
    job_address: str
    folder: Path
    pid: int


class NotStarted(RuntimeError):
    """Ray did not come up; the message is for the user."""


@contextmanager
def local_head(
    *,
    cpus: int | None = None,
    gpus: int | None = None,
    dashboard: bool = True,
    timeout_seconds: float = TIMEOUT_SECONDS,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[Head]:
    """Starts a head and ends it on the way out; inside, this process and its children reach it with the right token.

    `meanwhile` is called while it comes up, which takes it seconds of another core; its time is none of `timeout_seconds`.
    NotStarted with the end of Ray's own log where it does not come up within `timeout_seconds`.
    """
    with coming_head(cpus=cpus, gpus=gpus, dashboard=dashboard) as head_within:
        meanwhile()
        yield head_within(timeout_seconds)


@contextmanager
def coming_head(*, cpus: int | None = None, gpus: int | None = None, dashboard: bool = True) -> Iterator[Callable[[float], Head]]:
    """As `local_head`, but inside the head is only coming up: what is yielded waits so many seconds for it."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    with hold(folder), environment(folder):
        running: list[Starting] = []
        try:
            launch(running, folder, (cpus, gpus, dashboard))
            yield lambda timeout_seconds: started(running, folder, (cpus, gpus, dashboard), time.monotonic() + timeout_seconds)
        finally:
            for one in running:
                one.end()
            shutil.rmtree(folder, ignore_errors=True)


_Wanted = tuple[int | None, int | None, bool]
"""CPUs, GPUs, and whether there is a dashboard."""


@dataclass(frozen=True, slots=True)
class Starting:
    """The process of a head, and the ports it is told to listen on: of its job API, its agent and its client."""

    process: subprocess.Popen
    doors: tuple[socket.socket, ...]

    def end(self) -> None:
        """Ends the process, and gives the ports back."""
        end(self.process)
        for door in self.doors:
            door.close()


def launch(running: list[Starting], folder: Path, wanted: _Wanted) -> None:
    """Starts a head, the last in `running`."""
    doors = held_port(), held_port(), held_port()
    process = subprocess.Popen(
        command(folder, *(door.getsockname()[1] for door in doors), *wanted),
        stdin=subprocess.DEVNULL,
        env={**os.environ, "RAY_START_HOOK": f"{__name__}.{without_client.__name__}"},
        stdout=open(folder / "start.log", "wb"),  # noqa: SIM115 the child keeps it
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for us to handle
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    running.append(Starting(process, doors))


def started(running: list[Starting], folder: Path, wanted: _Wanted, deadline: float) -> Head:
    """A head that answers, the last in `running`. Ray itself gives up after half a minute, which a busy machine may need: then once more."""
    while True:
        process, door = running[-1].process, running[-1].doors[0]
        if address := wait_for_address(folder, process, deadline):
            return Head(address, f"http://{HOST}:{door.getsockname()[1]}" if wanted[2] else "", folder, process.pid)
        running.pop().end()
        lines = [line for line in (folder / "start.log").read_text(errors="replace").splitlines() if line.strip()] or ["its log is empty"]
        if time.monotonic() >= deadline or "timed out during startup" not in lines[-1]:
            raise NotStarted(f"Ray did not start on {HOST}: {lines[-1].strip()}")
        (folder / "ray_current_cluster").unlink(missing_ok=True)
        launch(running, folder, wanted)


def command(folder: Path, job_port: int, agent_port: int, client_port: int, cpus: int | None, gpus: int | None, dashboard: bool) -> list[str]:
    """`ray start` in the foreground; ports that are not named are free ones of Ray's choice."""
    options = {
        "node-ip-address": HOST, "port": 0, "temp-dir": folder, "object-store-memory": OBJECT_STORE_BYTES, "num-cpus": cpus, "num-gpus": gpus,
        "include-dashboard": str(dashboard).lower(), "dashboard-host": HOST, "dashboard-port": job_port, "dashboard-agent-listen-port": agent_port,
        "ray-client-server-port": client_port,  # by default 10001, which may be taken; nobody listens there, see `without_client`
        "min-worker-port": 0, "max-worker-port": 0,
        "include-log-monitor": "false",  # it sends what workers print to drivers, and ours do not listen
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [
        sys.executable,
        "-c",
        "from ray.scripts.scripts import main; main()",
        "start",
        "--head",
        "--block",
        "--no-monitor",
        "--disable-usage-stats",
        *flags,
    ]


def without_client(params: Any, head: bool) -> None:
    """What `ray start` calls with its settings before it starts anything: nobody comes by ray://, and its server takes seconds of a core."""
    params.ray_client_server_port = None


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """Token authentication for this process and every child; the token itself is in a file that only this user reads."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    settings = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a node of its own, on every system: only then does Ray stay on 127.0.0.1
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # there is no other node to move to
        "RAY_JOB_STOP_WAIT_TIME_S": os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", f"{GRACE_SECONDS + 5:.0f}"),  # a job saves a checkpoint first
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this node away
        "RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0",  # those of a run bring settings, and would not be these
        "GLOO_SOCKET_IFNAME": INTERFACE, "NCCL_SOCKET_IFNAME": f"={INTERFACE}",  # else that of the host's name, or one named for a cluster
        RENDEZVOUS: str(folder),
        "RAY_TRAIN_ENABLE_STATE_TRACKING": os.environ.get("RAY_TRAIN_ENABLE_STATE_TRACKING", "0"),  # nobody looks: it costs a process
        "PATH": first_in("PATH", Path(sys.executable).parent),  # a job's `python` is this one
        "PYTHONPATH": first_in("PYTHONPATH", Path(__file__).parents[1]),  # workers import this code
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in (*settings, "RAY_AUTH_TOKEN")}
    os.environ.update(settings)
    os.environ.pop("RAY_AUTH_TOKEN", None)
    reread_environment()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        reread_environment()


def reread_environment() -> None:
    """Ray reads its environment when it is imported; this makes one that was imported already look again."""
    if "ray" not in sys.modules:
        return
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config

    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not ray_constants.IS_WINDOWS_OR_OSX)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def first_in(variable: str, folder: Path) -> str:
    """The environment's search path with the folder in front."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get(variable)])])


def wait_for_address(folder: Path, process: subprocess.Popen, deadline: float) -> str:
    """The address Ray writes once its head is up; empty where it ends without, or the time is over."""
    found = folder / "ray_current_cluster"
    while time.monotonic() < deadline and process.poll() is None:
        if found.exists() and (address := found.read_text().strip()):
            return address
        time.sleep(0.05)
    return ""


def end(process: subprocess.Popen, grace_seconds: float = 10.0) -> None:
    """Ends a process that we started, politely first; what it started follows by its own arrangement with the kernel."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def held_port() -> socket.socket:
    """A socket with a free port of 127.0.0.1, on which it never listens: a server that is named the port has it beside this one, as servers
    bind with SO_REUSEADDR, and no other program is given it until then."""
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind((HOST, 0))
    return door


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Marks the folder as in use for as long as this process lives."""
    with open(folder / "in_use", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sweep() -> None:
    """Deletes the temporary folders of heads whose starter was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with open(folder / "in_use", "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use, another user's, or just being made
            continue


def _die_with_parent() -> None:
    """In the child: asks the kernel to end it when the thread that started it is gone (prctl PR_SET_PDEATHSIG, 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
