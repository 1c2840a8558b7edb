"""Several models in one process: loaded when asked for, put away when memory is short, renewed when their runs go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from serve.backend import Event, ModelCard, Result, Unavailable
from serve.finding import Source
from serve.runner import Runner

_DRAIN_SECONDS = 600.0


class Shelf:
    """A `Backend` over runners.

    A model whose checkpoint cannot be opened is in `problems` with the reason; the others are served. A newer checkpoint takes the place
    of the one before once it is loaded and its self-test passes twice alike; requests that run finish where they began.
    """

    def __init__(self, sources: tuple[Source, ...], *, device: str = "", threads: int = 0, memory_gb: float = 0.0) -> None:
        self.sources, self.device, self.threads, self.memory_bytes = {one.name: one for one in sources}, device, threads, memory_gb * 1e9
        self.runners: OrderedDict[str, Runner] = OrderedDict()
        """Those in memory, the least recently used first."""
        self.cards: dict[str, ModelCard] = {}
        self.problems: dict[str, str] = {}
        self.refused: dict[str, Path] = {}
        """The newest checkpoint of a model that was looked at and not taken."""
        self.locks = {name: asyncio.Lock() for name in self.sources}
        self.leaving: set[asyncio.Task] = set()

    def models(self) -> list[ModelCard]:
        """See `Backend`."""
        return list(self.cards.values())

    async def ready(self) -> None:
        """Opens each model once, for what it is."""
        for name in self.sources:
            if name not in self.cards and name not in self.problems:
                try:
                    await self.runner(name)
                except ValueError as error:
                    self.problems[name] = str(error)

    async def runner(self, name: str) -> Runner:
        """The model's runner, loaded where it is not. ValueError where its checkpoint is not whole; KeyError where there is no such model."""
        async with self.locks[name]:
            if name not in self.runners:
                self.take(name, await self.opened(Path(self.sources[name].folder), name))
            self.runners.move_to_end(name)
            return self.runners[name]

    async def opened(self, folder: Path, name: str) -> Runner:
        """A new runner, loaded beside the event loop."""
        return await asyncio.to_thread(Runner.load, folder, name=name, device=self.device, threads=self.threads)

    def take(self, name: str, runner: Runner) -> None:
        """Puts a runner in its place, and others away until the weights fit."""
        if before := self.runners.pop(name, None):
            self.leave(before)
        self.runners[name], self.cards[name] = runner, runner.card()
        self.problems.pop(name, None)
        while self.memory_bytes and len(self.runners) > 1 and sum(one.memory_bytes() for one in self.runners.values()) > self.memory_bytes:
            _, oldest = self.runners.popitem(last=False)
            self.leave(oldest)

    def leave(self, runner: Runner) -> None:
        """Closes a runner once its requests are through."""

        async def drained() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while runner.inside:
                        await asyncio.sleep(0.1)
            runner.close()

        task = asyncio.get_running_loop().create_task(drained())
        self.leaving.add(task)
        task.add_done_callback(self.leaving.discard)

    async def refresh(self) -> list[str]:
        """Looks for newer checkpoints of what is loaded or could not be; names of the models that changed."""
        changed = []
        for name, source in self.sources.items():
            newest = source.newest()
            if newest is None or newest == self.refused.get(name) or (name in self.cards and step_of(newest) <= self.cards[name].step):
                continue
            if name in self.cards and name not in self.runners:
                continue  # what is put away is opened at its newest when it is asked for
            try:
                runner = await self.opened(newest, name)
                if await asyncio.to_thread(runner.self_test) != await asyncio.to_thread(runner.self_test):
                    raise ValueError(f"the self-test of {newest} does not give the same twice")
            except ValueError as error:
                self.refused[name], self.problems[name] = newest, f"step {step_of(newest)} is not served: {error}"
                continue
            async with self.locks[name]:
                self.take(name, runner)
            changed.append(name)
        return changed

    async def run(self, model: str, action: str, arguments: dict[str, Any], *, parameters: dict[str, str] | None = None) -> Result:
        """See `Backend`."""
        return await (await self.entered(model)).run(action, arguments, parameters=parameters)

    async def stream(
        self, model: str, action: str, arguments: dict[str, Any], *, partial_images: int = 0, parameters: dict[str, str] | None = None
    ) -> AsyncIterator[Event]:
        """See `Backend`."""
        runner = await self.entered(model)
        stream = runner.stream(action, arguments, partial_images=partial_images, parameters=parameters)
        async with contextlib.aclosing(stream) as events:  # type: ignore[type-var]
            async for event in events:
                yield event

    async def entered(self, model: str) -> Runner:
        """The runner for a request. KeyError where there is no such model, Unavailable where its checkpoint cannot be opened."""
        if model not in self.sources:
            raise KeyError(model)
        try:
            return await self.runner(model)
        except ValueError as error:
            self.problems[model] = str(error)
            raise Unavailable(30.0) from None


def step_of(folder: Path) -> int:
    """The step that a checkpoint's folder is named after; 0 where it has another name."""
    name = folder.name.removeprefix("step_")
    return int(name) if name.isdecimal() else 0
