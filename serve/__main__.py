"""Serves trained checkpoints over HTTP: `python -m serve runs/clip runs/sdxl`; without a name every finished run. `--help` shows every option.

One process does it all. With more than one replica, processes of Ray do, behind HAProxy, on this machine or, with RAY_ADDRESS set, on that cluster;
they end with this command. The page and the API are at http://HOST:PORT.
"""

from __future__ import annotations

if __name__ == "__main__":  # before imports that take a second
    from cluster.quiet import ends_quietly

    ends_quietly()
    import genlib.phases  # noqa: F401 whose clock begins

import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cluster.screen import LogFormat
from cluster.signals import GRACE_SECONDS, check_grace, keeps
from genlib import program
from jobs.command_form import read
from jobs.exit_codes import exit_code
from serve.options import ServeOptions

if TYPE_CHECKING:
    from serve.models.sources import ModelSource
    from serve.servers.replicas import Replicas


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeCommand:
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
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """In which networks compute; bf16 and fp16 take half the memory, and are faster where the device has them."""
    compile: bool = False
    """Compile networks with torch.compile; each takes its time at its first call."""
    reload_seconds: float = 10.0
    """Between looks for newer checkpoints of the runs that are served; 0 never looks."""
    write_config: Path | None = None
    """Write what `serve deploy` and KubeRay's RayService take to this file, and serve nothing."""
    grace_seconds: float = GRACE_SECONDS
    """In which requests end once the server is stopped (SIGTERM, Ctrl-C); a second signal ends it at once."""
    log_format: LogFormat = "auto"
    """Logs as lines of JSON (json) or for people (text); auto is text where standard error is a terminal. Replicas of Ray always log JSON."""
    options: Annotated[ServeOptions, tyro.conf.arg(name="")] = field(default_factory=ServeOptions)

    def __post_init__(self) -> None:
        check_grace(self.grace_seconds)

    def sized(self) -> Replicas:
        """The replicas that are asked for. ValueError where that is no number or range of them."""
        from serve.servers.replicas import Replicas

        least, _, most = self.replicas.partition(":")
        if not least.isdecimal() or not (most or least).isdecimal() or not 1 <= int(least) <= int(most or least):
            raise ValueError(f"--replicas is {self.replicas!r}; write a number such as 2, or the least and the most, such as 1:4")
        return Replicas(
            least=int(least), most=int(most or least), cpus=self.cpus_per_replica, gpus=self.gpus_per_replica, memory_gb=self.memory_gb,
            precision=self.precision, compile=self.compile, reload_seconds=self.reload_seconds,
        )  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code."""
    command = read(ServeCommand, arguments, program.command("serve"), __doc__ or "")
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(command.cpus_per_replica)))  # read once, as torch is imported: threads that come later follow it
    from jobs.run_folder import only_one, runs_root
    from serve.models.sources import model_sources

    replicas, served, options = command.sized(), model_sources(command.checkpoints, runs_root()), command.options
    if command.write_config:
        write_config(command.write_config, served, replicas, options)
        return 0
    from serve.observability import phase, start_logs

    start_logs(command.log_format)
    phase("environment")
    folder = options.jobs_folder or runs_root() / ".serve"
    kept = f"stopped; jobs are kept in {folder}, and the same command serves again"
    with bound(options.host, command.port) as door, only_one(folder), keeps(lambda: kept):
        return server(replicas)(door, served, replicas, replace(options, jobs_folder=folder), command.grace_seconds)


def server(replicas: Replicas) -> Callable[[socket.socket, tuple[ModelSource, ...], Replicas, ServeOptions, float], int]:
    """What serves: this process by itself where it is to be one, on this machine; else Ray."""
    if replicas.most == 1 and not os.environ.get("RAY_ADDRESS"):
        from serve.servers.local import serve
    else:
        from serve.servers.ray import serve
    return serve


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


def write_config(path: Path, served: tuple[ModelSource, ...], replicas: Replicas, options: ServeOptions) -> None:
    """Writes a configuration of Ray Serve, with the packages that may bring families; keys are not in it: they come from the environment of the
    cluster's processes."""
    import yaml

    from cluster.connect import passed_on
    from serve.deployment import APPLICATION

    usual = asdict(ServeOptions())
    plain = {name: value for name, value in asdict(options).items() if name != "keys" and value != usual[name]}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}
    arguments = {"checkpoints": [f"{one.name}={one.folder}" for one in served], "replicas": asdict(replicas), "options": plain}
    application = {"name": APPLICATION, "route_prefix": "/", "import_path": "serve.deployment:application", "args": arguments}
    application["runtime_env"] = passed_on() or {}
    path.write_text(yaml.safe_dump({"http_options": {"host": options.host}, "applications": [application]}, sort_keys=False))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
