"""Ray Serve: replicas that hold models, and a front that answers HTTP.

serve deploy serve.yaml      of what `python -m serve CHECKPOINT... --write-config serve.yaml` wrote; KubeRay's RayService takes the same
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from serve.limits import Limits
from serve.models.sources import ModelSource
from serve.observability import log_as_json
from serve.options import ServeOptions
from serve.ray_backend import RayBackend, Status
from serve.scaling import LOAD

MODELS, FRONT, APPLICATION = "models", "front", "genlib"
_GRACE_SECONDS = 30.0
"""In which a replica that is let go may end its calls; the front asks others for what it cannot."""
_CALLS_A_REPLICA = 8
"""That run or wait, before there are more replicas."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replicas:
    """How many replicas of what size hold the models."""

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0
    """Weights that a replica keeps loaded, the least recently used go first; 0 keeps all."""
    reload_seconds: float = 10.0
    """Between looks for a newer checkpoint; 0 never looks."""
    queue: int = 256
    """Calls that may run and wait in one replica; more are refused."""


class Replica:
    """One process with models in it. Ray Serve asks only what it is; its calls come over a socket of its own."""

    async def __init__(self, sources: tuple[ModelSource, ...], replicas: Replicas) -> None:
        from ray.util import get_node_ip_address

        from serve.listener import Listener
        from serve.models.pool import ModelPool

        log_as_json()
        self.pool = ModelPool(sources, device="cuda" if replicas.gpus else "cpu", threads=max(1, int(replicas.cpus)), memory_gb=replicas.memory_gb)
        await self.pool.ready()
        self.listener = Listener(self.pool, replicas.queue)
        self.address = await self.listener.open(get_node_ip_address())
        self.watch = asyncio.get_running_loop().create_task(self.reload(replicas.reload_seconds)) if replicas.reload_seconds else None

    async def reload(self, seconds: float) -> None:
        """Looks for newer checkpoints, for as long as the replica lives."""
        while True:
            await asyncio.sleep(seconds)
            with contextlib.suppress(OSError, ValueError):
                await self.pool.refresh()

    async def status(self) -> Status:
        """What is served, and what is not and why, and where."""
        from ray import serve

        return Status(
            replica=serve.get_replica_context().replica_id.unique_id, address=self.address, cards=self.pool.models(),
            problems=dict(self.pool.problems), loaded=tuple(self.pool.runners),
        )  # fmt: skip

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `serve.scaling` counts."""
        return {LOAD: float(len(self.listener.tasks))}

    async def __del__(self) -> None:
        """Ray Serve lets a replica go by this: what runs in it ends first."""
        await self.listener.close(_GRACE_SECONDS)


class Front:
    """The HTTP application as a deployment of its own, for clusters; `python -m serve` runs it in its own process."""

    def __init__(self, models: Any, options: Any) -> None:
        self.backend, self.options = RayBackend(models), options

    def __serve_build_asgi_app__(self) -> Any:
        from serve.app import build_app

        self.keeping = asyncio.get_running_loop().create_task(self.backend.keep())
        return build_app(self.backend, self.options)


def models(sources: tuple[ModelSource, ...], replicas: Replicas) -> Any:
    """The deployment that holds the models, with its arguments."""
    from ray import serve

    scaling: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        policy = {"policy_function": "serve.scaling:replicas_for_load"}
        bounds = {"min_replicas": replicas.least, "max_replicas": replicas.most, "target_ongoing_requests": _CALLS_A_REPLICA}
        scaling = {"autoscaling_config": {**bounds, "policy": policy, "look_back_period_s": 10.0, "upscale_delay_s": 5.0}}
    deployment: Any = serve.deployment(
        Replica, name=MODELS, graceful_shutdown_timeout_s=2 * _GRACE_SECONDS, health_check_period_s=2,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus}, **scaling,
    )  # fmt: skip
    return deployment.bind(sources, replicas)


def application(arguments: dict[str, Any]) -> Any:
    """What `serve deploy` runs, from the arguments in its file. ValueError names one that is none."""
    from ray import serve

    from jobs.run_folder import runs_root
    from serve.models.sources import model_sources

    refuse_unknown(arguments, ("checkpoints", "replicas", "options"), "argument")
    replicas = arguments.get("replicas", {})
    refuse_unknown(replicas, [field.name for field in fields(Replicas)], "setting of replicas")
    sized, options = Replicas(**replicas), options_of(arguments.get("options", {}))
    front: Any = serve.deployment(serve.ingress(None)(Front), name=FRONT, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.5})
    return front.bind(models(model_sources(arguments.get("checkpoints", ()), runs_root()), sized), options)


def options_of(values: dict[str, Any]) -> ServeOptions:
    """Options from plain values. ValueError names one that is none."""
    refuse_unknown(values, [field.name for field in fields(ServeOptions) if field.name != "keys"], "option")
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    if "jobs_folder" in made:
        made["jobs_folder"] = Path(made["jobs_folder"])
    if "limits" in made:
        refuse_unknown(made["limits"], [field.name for field in fields(Limits)], "limit")
        made["limits"] = Limits(**made["limits"])
    return ServeOptions(**made)


def refuse_unknown(values: Collection[str], known: Collection[str], what: str) -> None:
    """ValueError names the first that is not known."""
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"there is no {what} {unknown[0]!r}; there are {', '.join(sorted(known))}")
