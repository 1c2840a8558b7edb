"""Tiny trained models behind a real application: what the tests of serving's front ask."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import numpy as np
import PIL.Image
import uvicorn
from fastapi import FastAPI

from genlib.ports import Image, Seeds, Sizes, Steps
from genlib.task import Task, action
from serve.app import build_app
from serve.backend import Backend, Event, ModelCard, Result
from serve.http.protocol import uvicorn_settings
from serve.models.pool import ModelPool
from serve.models.runner import Runner
from serve.models.sources import ModelSource
from serve.options import ServeOptions

T = TypeVar("T")
SOON = 60.0
ORIGIN = "http://127.0.0.1:8000"
KEY = "correct-horse-battery-staple"
NAMES = ("ddpm", "clip_tiny", "inpainting", "vae", "ldm_tiny", "gan")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine, for so long as no test takes."""
    return asyncio.run(asyncio.wait_for(work, SOON))


def client_of(app: FastAPI, **options: Any) -> httpx2.AsyncClient:
    """A client of the application in this process."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=ORIGIN, **options)


def ask(backend: Backend, work: Callable[[httpx2.AsyncClient], Awaitable[T]], **options: Any) -> T:
    """What `work` does with a client of a fresh application over these models."""

    async def asked() -> T:
        app = build_app(backend, ServeOptions(**options))
        async with client_of(app) as client:
            try:
                return await work(client)
            finally:
                await app.state.front.jobs.stop()

    return run(asked())


def post(backend: Backend, path: str, body: dict[str, Any], **options: Any) -> httpx2.Response:
    """One request."""
    return ask(backend, lambda client: client.post(path, json=body), **options)


def picture(side: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 (side, side, channels), a corner bright and the rest noise."""
    pixels = np.random.default_rng(seed).integers(0, 200, (side, side, channels), dtype=np.uint8)
    pixels[: side // 2, : side // 2] = 255
    return pixels


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, kind)
    return buffer.getvalue()


def uri(data: bytes) -> str:
    """As pictures stand in JSON."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def shown(data: bytes) -> np.ndarray:
    """Pixels of a file, as whole numbers."""
    return np.asarray(PIL.Image.open(io.BytesIO(data))).astype(int)


def events_of(text: str) -> list[dict[str, Any]]:
    """Server-sent events: name, id and data."""
    import json

    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" in fields:
            found.append({**fields, "data": fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])})
    return found


@contextmanager
def listening(backend: Backend, **options: Any) -> Iterator[str]:
    """The application on a port of its own; its address."""
    given = ServeOptions(**options)
    server = uvicorn.Server(uvicorn.Config(build_app(backend, given), port=0, **uvicorn_settings(given)))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(SOON)


def card_of(name: str, task: type[Task], **sizes: Any) -> ModelCard:
    """A card of a task that draws 8 x 8 pixels in colour."""
    measured = Sizes(**{"channels": 3, "side": 8, "max_steps": 1000, **sizes})
    actions = {one.name: one.resolved(measured) for one in task.actions()}
    return ModelCard(name=name, recipe=name, step=1, sha256="0" * 64, actions=actions, sizes=measured, max_batch=8, created=0)


def wordy(card: ModelCard, characters: int) -> ModelCard:
    """The card, whose actions say so much of themselves."""
    return replace(card, actions={name: replace(one, doc="x" * characters) for name, one in card.actions.items()})


class Walks(Task):
    """What `Walker` says that it can do."""

    @action
    def generate(self, *, seed: Seeds, steps: Steps = 50) -> Image:
        """Pictures."""
        raise NotImplementedError


class Walker:
    """A backend whose one model takes as long as it is told: where time itself is what a test is about."""

    def __init__(self, step_seconds: float = 0.01) -> None:
        self.step_seconds, self.walked, self.inside = step_seconds, 0, 0

    def models(self) -> list[ModelCard]:
        return [card_of("walker", Walks)]

    async def run(self, model: str, action: str, arguments: dict[str, Any], *, parameters: dict[str, str] | None = None) -> Result:
        async for event in self.stream(model, action, arguments, parameters=parameters):
            if event.result is not None:
                return event.result
        raise AssertionError

    async def stream(
        self, model: str, action: str, arguments: dict[str, Any], *, partial_images: int = 0, parameters: dict[str, str] | None = None
    ) -> AsyncIterator[Event]:
        steps = arguments.get("steps", 50)
        self.inside += 1
        try:
            for step in range(steps):
                await asyncio.sleep(self.step_seconds)
                self.walked += 1
                yield Event(kind="progress", step=step + 1, steps=steps)
            images = [png(picture(seed=seed)) for seed in arguments["seed"]]
            yield Event(kind="result", step=steps, steps=steps, result=Result(images=images, seconds={"model": 0.1}, batch_size=1))
        finally:
            self.inside -= 1


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what must come."""
    while not condition():
        await asyncio.sleep(0.005)


@asynccontextmanager
async def application(backend: Backend, **options: Any) -> AsyncIterator[tuple[FastAPI, httpx2.AsyncClient]]:
    """The application and a client, with its life around it as a server has it."""
    app = build_app(backend, ServeOptions(**options))
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield app, client


def opened(sources: Sequence[ModelSource]) -> ModelPool:
    """The models of these sources, loaded on the CPU."""
    pool = ModelPool(tuple(sources), device="cpu")
    asyncio.run(pool.ready())
    assert not pool.problems
    return pool


def pool_over(runner: Runner) -> ModelPool:
    """A pool of one model that is loaded already."""
    name = runner.card().name
    pool = ModelPool((ModelSource(name, ""),))
    pool.take(name, runner)
    return pool


def folders(root: Path) -> dict[str, Path]:
    """Trains each model in `root`; the folders of their last stages."""
    from tests.models.stages import train_stages

    return {name: list(train_stages(name, root / name).values())[-1].parents[1] for name in NAMES}
