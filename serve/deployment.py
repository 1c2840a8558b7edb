"""Ray Serve: replicas that hold models and answer HTTP, each with the whole application, behind the ingress of Ray (HAProxy where it is enabled).

serve deploy serve.yaml      of what `python -m serve CHECKPOINT... --write-config serve.yaml` wrote; KubeRay's RayService takes the same

Any replica answers any request: Ray 2.60 has no way to route HTTP by a model's name that stands in the body, so each loads what it is asked
for within its memory. Jobs and repeated answers lie in a folder that all replicas share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from serve.app import build_app
from serve.limits import Limits
from serve.models.sources import ModelSource, model_sources
from serve.observability import start_logs
from serve.options import ServeOptions
from serve.servers.replicas import Replicas
from serve.servers.shared_metrics import FOLDER, SharedMetrics

REPLICA, APPLICATION = "models", "genlib"
_GRACE_SECONDS = 30.0
"""In which a replica that is let go may end its requests."""
_REQUESTS_A_REPLICA = 8
"""That run or wait, before there are more replicas."""
_BESIDE = 64
"""Requests for pages and probes, which have no place among those that `requests_at_once` counts."""


class Replica:
    """One process with models in it, which answers HTTP."""

    async def __init__(self, sources: tuple[ModelSource, ...], replicas: Replicas, options: ServeOptions) -> None:
        start_logs("json")
        self.pool, self.options = replicas.pool(sources), options
        await self.pool.ready()
        self.following = asyncio.get_running_loop().create_task(self.pool.follow(replicas.reload_seconds))

    def __serve_build_asgi_app__(self) -> Any:
        """The application, as Ray Serve asks for it once the models are open."""
        from ray import serve

        app = build_app(self.pool, self.options)
        front, name = app.state.front, serve.get_replica_context().replica_id.unique_id
        front.metrics.registry = SharedMetrics(front.metrics.registry, front.jobs.folder / FOLDER, name)
        self.writing = asyncio.get_running_loop().create_task(front.metrics.registry.keep_writing())
        return app


def deployed(sources: tuple[ModelSource, ...], replicas: Replicas, options: ServeOptions) -> Any:
    """The replicas as Ray Serve runs them."""
    from ray import serve

    scaling: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        bounds = {"min_replicas": replicas.least, "max_replicas": replicas.most, "target_ongoing_requests": _REQUESTS_A_REPLICA}
        scaling = {"autoscaling_config": {**bounds, "look_back_period_s": 10.0, "upscale_delay_s": 5.0}}
    deployment: Any = serve.deployment(
        serve.ingress(None)(Replica), name=REPLICA, graceful_shutdown_timeout_s=_GRACE_SECONDS, health_check_period_s=2,
        max_ongoing_requests=options.requests_at_once + _BESIDE, ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus}, **scaling,
    )  # fmt: skip
    return deployment.bind(sources, replicas, options)


def application(arguments: dict[str, Any]) -> Any:
    """What `serve deploy` runs, from the arguments in its file. ValueError names one that is none."""
    from jobs.run_folder import runs_root

    sized, options = settings(arguments)
    shared = replace(options, jobs_folder=options.jobs_folder or runs_root() / ".serve")  # any replica may be asked for a job of another
    return deployed(model_sources(arguments.get("checkpoints", ()), runs_root()), sized, shared)


def settings(arguments: dict[str, Any], keys: tuple[str, ...] | None = None) -> tuple[Replicas, ServeOptions]:
    """What the arguments say of replicas and of the server. `keys` are its clients', by default those of the environment. ValueError names what is
    no argument."""
    check_known(arguments, ("checkpoints", "replicas", "options"), "argument")
    replicas = arguments.get("replicas", {})
    check_known(replicas, [field.name for field in fields(Replicas)], "setting of replicas")
    return Replicas(**replicas), options_of(arguments.get("options", {}), keys)


def options_of(values: dict[str, Any], keys: tuple[str, ...] | None = None) -> ServeOptions:
    """Options from plain values. ValueError names one that is none."""
    check_known(values, [field.name for field in fields(ServeOptions) if field.name != "keys"], "option")
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    if "jobs_folder" in made:
        made["jobs_folder"] = Path(made["jobs_folder"])
    if "limits" in made:
        check_known(made["limits"], [field.name for field in fields(Limits)], "limit")
        made["limits"] = Limits(**made["limits"])
    return ServeOptions(**made) if keys is None else ServeOptions(**made, keys=keys)


def check_known(values: Collection[str], known: Collection[str], what: str) -> None:
    """ValueError names the first that is not known."""
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"there is no {what} {unknown[0]!r}; there are {', '.join(sorted(known))}")
