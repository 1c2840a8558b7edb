"""Ray Serve: replicas that hold models, and a front that answers HTTP.

serve deploy serve.yaml      of what `python -m serve CHECKPOINT... --write-config serve.yaml` wrote; KubeRay's RayService takes the same
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from serve.backend import Event
from serve.finding import Source
from serve.limits import Limits
from serve.options import ServeOptions
from serve.ray_backend import Call, RayBackend

MODELS, FRONT, APPLICATION = "models", "front", "genlib"


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
    """Requests that may wait for replicas; more are refused."""


class Replica:
    """One process with models in it."""

    def __init__(self, sources: tuple[Source, ...], replicas: Replicas) -> None:
        from serve.shelf import Shelf

        self.shelf = Shelf(sources, device="cuda" if replicas.gpus else "cpu", threads=max(1, int(replicas.cpus)), memory_gb=replicas.memory_gb)
        self.watch = asyncio.get_running_loop().create_task(self.reload(replicas.reload_seconds)) if replicas.reload_seconds else None

    async def reload(self, seconds: float) -> None:
        """Looks for newer checkpoints, for as long as the replica lives."""
        while True:
            await asyncio.sleep(seconds)
            with contextlib.suppress(OSError, ValueError):
                await self.shelf.refresh()

    async def status(self) -> dict[str, Any]:
        """What is served, and what is not and why."""
        await self.shelf.ready()
        return {"cards": [asdict(card) for card in self.shelf.models()], "problems": dict(self.shelf.problems)}

    async def run_all(self, calls: list[Call]) -> list[Any]:
        """The result of each, or its error."""
        return await asyncio.gather(*(self.shelf.run(*call[:3], parameters=call[3]) for call in calls), return_exceptions=True)

    async def stream(self, call: Call, partial_images: int) -> AsyncIterator[Event]:
        """News of one, its result last."""
        model, action, arguments, parameters = call
        stream = self.shelf.stream(model, action, arguments, partial_images=partial_images, parameters=parameters)
        async with contextlib.aclosing(stream) as events:  # type: ignore[type-var]
            async for event in events:
                yield event


class Front:
    """The HTTP application as a deployment of its own, for clusters; `python -m serve` runs it in its own process."""

    def __init__(self, models: Any, options: Any) -> None:
        self.backend, self.options = RayBackend(models), options

    def __serve_build_asgi_app__(self) -> Any:
        from serve.app import build_app

        self.keeping = asyncio.get_running_loop().create_task(self.backend.keep())
        return build_app(self.backend, self.options)


def models(sources: tuple[Source, ...], replicas: Replicas) -> Any:
    """The deployment that holds the models, with its arguments."""
    from ray import serve

    scaling: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        scaling = {"autoscaling_config": {"min_replicas": replicas.least, "max_replicas": replicas.most, "target_ongoing_requests": 4}}
    deployment = serve.deployment(
        Replica, name=MODELS, max_ongoing_requests=64, max_queued_requests=replicas.queue, graceful_shutdown_timeout_s=30, health_check_period_s=2,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus}, **scaling,
    )  # fmt: skip
    return deployment.bind(sources, replicas)


def options_of(values: dict[str, Any]) -> ServeOptions:
    """Options from plain values. ValueError names one that is none."""
    known = {field.name for field in fields(ServeOptions)} - {"keys"}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"there is no option {unknown[0]!r}; there are {', '.join(sorted(known))}")
    made = dict(values)
    if "jobs_folder" in made:
        made["jobs_folder"] = Path(made["jobs_folder"])
    if "limits" in made:
        made["limits"] = Limits(**made["limits"])
    return ServeOptions(**{name: tuple(value) if isinstance(value, list) else value for name, value in made.items()})


class Arguments(BaseModel):
    """What a configuration file may say."""

    model_config = ConfigDict(extra="forbid")

    checkpoints: list[str] = []
    replicas: dict[str, Any] = {}
    options: dict[str, Any] = {}


def application(arguments: Arguments) -> Any:
    """What `serve deploy` runs, from the arguments in its file."""
    from ray import serve

    from jobs.run_folder import runs_root
    from serve.finding import sources

    replicas, options = Replicas(**arguments.replicas), options_of(arguments.options)
    front = serve.deployment(serve.ingress(None)(Front), name=FRONT, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.5})
    return front.bind(models(sources(arguments.checkpoints, runs_root()), replicas), options)
