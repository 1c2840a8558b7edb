"""Serves trained checkpoints over HTTP: `python -m serve runs/clip runs/sdxl`; without a name every finished run. `--help` shows every option.

A head of Ray on this machine holds the models, in one or more replicas, and ends with this process; with RAY_ADDRESS set, that cluster does.
The page and the API are at http://HOST:PORT.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.signals import ends_quietly

    ends_quietly()

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from cluster.connect import connected
from cluster.preflight import refuse_impossible
from cluster.signals import GRACE_SECONDS, ends_well, keeps, refuse_grace
from jobs.command_line import exit_code, read
from jobs.run_folder import only_one, runs_root
from serve.deployment import APPLICATION, Replicas
from serve.models.sources import ModelSource, model_sources
from serve.options import ServeOptions
from serve.ray_backend import RayBackend

_ENDING_SECONDS = 8.0
"""That Ray and its processes take to end, out of the grace time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What is served, by how much, and where."""

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Folders of runs, of their stages or of checkpoints, or NAME=FOLDER; none is every finished run."""
    port: int = 8000
    """0 takes any that is free."""
    replicas: str = "1"
    """Processes that hold the models, or as many as the load needs between two numbers, as 1:4."""
    cpus_per_replica: float = 1.0
    """CPUs that a replica reserves; without GPUs also its threads."""
    gpus_per_replica: float = 0.0
    """GPUs that a replica reserves, such as 0.5."""
    memory_gb: float = 0.0
    """Weights that a replica keeps loaded, the least recently used go first; 0 keeps all."""
    reload_seconds: float = 10.0
    """Between looks for newer checkpoints of the runs that are served; 0 never looks."""
    write_config: Path | None = None
    """Write what `serve deploy` and KubeRay's RayService take to this file, and serve nothing."""
    grace_seconds: float = GRACE_SECONDS
    """In which requests end once the server is stopped (SIGTERM, Ctrl-C); a second signal ends it at once."""
    options: Annotated[ServeOptions, tyro.conf.arg(name="")] = field(default_factory=ServeOptions)

    def __post_init__(self) -> None:
        refuse_grace(self.grace_seconds)

    def sized(self) -> Replicas:
        """The replicas that are asked for. ValueError where that is no number or range of them."""
        least, _, most = self.replicas.partition(":")
        if not least.isdecimal() or not (most or least).isdecimal() or not 1 <= int(least) <= int(most or least):
            raise ValueError(f"replicas is {self.replicas!r}; write a number such as 2, or the least and the most, such as 1:4")
        return Replicas(
            least=int(least), most=int(most or least), cpus=self.cpus_per_replica, gpus=self.gpus_per_replica, memory_gb=self.memory_gb,
            reload_seconds=self.reload_seconds,
        )  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code."""
    command = read(Command, arguments, "python -m serve", __doc__ or "")
    served, replicas = model_sources(command.checkpoints, runs_root()), command.sized()
    options = command.options
    if command.write_config:
        write_config(command.write_config, served, replicas, options)
        return 0
    folder = options.jobs_folder or runs_root() / ".serve"
    kept = f"stopped; jobs are kept in {folder}, and the same command serves again"
    with bound(options.host, command.port) as door, only_one(folder), keeps(lambda: kept), connected():
        refuse_impossible(replicas.least, {"CPU": replicas.cpus} | ({"GPU": replicas.gpus} if replicas.gpus else {}), "replica")
        return run(door, served, replicas, replace(options, jobs_folder=folder), command.grace_seconds)


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address, on which nobody listens yet. ValueError where it cannot be had."""
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except (OSError, OverflowError) as error:
        door.close()
        why = getattr(error, "strerror", None) or "a port is a number up to 65535"
        raise ValueError(f"port {port} of {host} cannot be used: {why}; give another --port (0 takes any that is free), or --host") from None
    return door


def run(door: socket.socket, served: tuple[ModelSource, ...], replicas: Replicas, options: ServeOptions, grace_seconds: float) -> int:
    """Starts the replicas, then the front, in this process, until a signal ends it."""
    import uvicorn
    from ray import serve

    from serve.app import build_app
    from serve.deployment import models
    from serve.http.protocol import uvicorn_settings
    from serve.observability import log_as_json

    quiet = {"log_level": "ERROR", "enable_access_log": False}
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # of this process, which `quiet` is not for
    serve.start(http_options={"location": "NoServer"}, logging_config=quiet)
    handle = serve.run(models(served, replicas), name=APPLICATION, route_prefix=None, logging_config=quiet)
    log_as_json()
    backend = RayBackend(handle)
    app = build_app(backend, options)
    settings = uvicorn_settings(options) | {"timeout_graceful_shutdown": max(1, int(grace_seconds - _ENDING_SECONDS))}
    server = uvicorn.Server(uvicorn.Config(app, **settings))

    def stop() -> None:
        server.should_exit = True

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner, ends_well(stop, grace_seconds):
        runner.run(announced(server, door, backend))
    serve.shutdown()
    return 0


async def announced(server: Any, door: socket.socket, backend: RayBackend) -> None:
    """Serves, and says where once it listens, and what it does not serve and why."""

    async def say() -> None:
        while not server.started:
            await asyncio.sleep(0.05)
        (host, port, *_) = door.getsockname()
        print(f"serving {', '.join(backend.cards) or 'nothing'} at http://{host}:{port}", flush=True)

    await backend.refresh()
    for name, why in backend.problems.items():
        print(f"{name} is not served: {why}", file=sys.stderr, flush=True)
    gc.collect()
    gc.freeze()  # what was imported is not looked through again and again while requests wait
    tasks = [asyncio.create_task(say()), asyncio.create_task(backend.keep())]
    try:
        await server.serve(sockets=[door])
    finally:
        for task in tasks:
            task.cancel()


def write_config(path: Path, served: tuple[ModelSource, ...], replicas: Replicas, options: ServeOptions) -> None:
    """Writes a configuration of Ray Serve; keys are not in it: they come from the environment of the front's replica."""
    import yaml

    usual = asdict(ServeOptions())
    plain = {name: value for name, value in asdict(options).items() if name != "keys" and value != usual[name]}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}
    arguments = {"checkpoints": [f"{one.name}={one.folder}" for one in served], "replicas": asdict(replicas), "options": plain}
    application = {"name": APPLICATION, "route_prefix": "/", "import_path": "serve.deployment:application", "args": arguments}
    path.write_text(yaml.safe_dump({"http_options": {"host": options.host}, "applications": [application]}, sort_keys=False))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
