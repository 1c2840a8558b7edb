"""Several models in one process: loaded when asked for, put away when memory is short, renewed when their runs go on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from serve.backend import Event, ModelCard, Result, Unavailable
from serve.models.consistency_check import check_consistency
from serve.models.runner import Runner
from serve.models.sources import ModelSource

LOG = logging.getLogger("serve.models.pool")
_DRAIN_SECONDS = 600.0
_AGAIN_SECONDS = 300.0
"""After which a checkpoint that was refused is opened again: what kept it from being read may have passed."""


class ModelPool:
    """A `Backend` over runners.

    A model whose checkpoint cannot be opened is in `problems` with the reason; the others are served. A newer checkpoint takes the place
    of the one before once it is loaded and passes its consistency check; requests that run finish where they began.
    """

    def __init__(self, sources: tuple[ModelSource, ...], *, memory_gb: float = 0.0, **loading: Any) -> None:
        """memory_gb: weights that stay loaded, the least recently used go first; 0 keeps all. loading: how each is made, see `Runner.load`."""
        self.sources, self.loading, self.memory_bytes = {one.name: one for one in sources}, loading, memory_gb * 1e9
        self.runners: OrderedDict[str, Runner] = OrderedDict()
        """Those in memory, the least recently used first."""
        self.cards: dict[str, ModelCard] = {}
        self.problems: dict[str, str] = {}
        self.refused: dict[Path, tuple[float, str]] = {}
        """Checkpoints that were opened and not taken: when, and why."""
        self.tested: set[str] = set()
        """sha256 of the weights that passed here."""
        self.locks = {name: asyncio.Lock() for name in self.sources}
        self.leaving: set[asyncio.Task] = set()

    def models(self) -> list[ModelCard]:
        """See `Backend`. None until each model has been opened or refused: until then nobody can say that a name is no model's."""
        known = self.cards.keys() | self.problems.keys()
        return list(self.cards.values()) if known >= self.sources.keys() else []

    async def ready(self) -> None:
        """Opens each model once, for what it is."""
        for name in self.sources:
            if name not in self.cards and name not in self.problems:
                began = time.perf_counter()
                with contextlib.suppress(ValueError):
                    await self.runner(name)
                    LOG.info("model %s is open", name, extra={"values": {"seconds": round(time.perf_counter() - began, 1)}})

    async def follow(self, seconds: float) -> None:
        """Takes up newer checkpoints, with so many seconds between looks, for as long as it runs; 0 never looks."""
        while seconds:
            await asyncio.sleep(seconds)
            with contextlib.suppress(OSError, ValueError):  # a folder that is away for a moment
                await self.refresh()

    def close(self) -> None:
        """Ends all models' threads; requests that still run raise Unavailable."""
        for runner in self.runners.values():
            runner.close()

    async def runner(self, name: str) -> Runner:
        """The model's runner, loaded where it is not. ValueError where none of its checkpoints can be served."""
        if name not in self.runners:
            async with self.locks[name]:
                if name not in self.runners:  # by whoever had the lock before
                    self.take(name, await self.newest(name))
        self.runners.move_to_end(name)
        return self.runners[name]

    async def newest(self, name: str) -> Runner:
        """A runner of the newest checkpoint that can be served; `problems` says why it is not a newer one. ValueError where there is none."""
        why = ""
        for folder in await asyncio.to_thread(self.sources[name].checkpoints):  # a store may take a while
            try:
                runner = await self.opened(folder, name)
            except ValueError as error:
                why = why or str(error)
                continue
            self.problems.pop(name, None)
            if why:
                self.problems[name] = why
            return runner
        self.problems[name] = why or f"{self.sources[name].folder} holds no checkpoint"
        raise ValueError(self.problems[name])

    async def opened(self, folder: Path, name: str) -> Runner:
        """A new runner of a checkpoint, loaded and tested beside the event loop. ValueError says why it cannot be served."""
        since, why = self.refused.get(folder, (0.0, ""))
        if why and time.monotonic() - since < _AGAIN_SECONDS:
            raise ValueError(why)
        try:
            return await asyncio.to_thread(self.tested_runner, folder, name)
        except Exception as error:
            if not isinstance(error, ValueError):
                LOG.error("checkpoint %s cannot be opened", folder, exc_info=error)
            said = str(error) if isinstance(error, ValueError) else f"{folder} cannot be opened ({type(error).__name__}); the log says more"
            self.refused[folder] = time.monotonic(), f"step {step_of(folder)} is not served: {said}"
            raise ValueError(self.refused[folder][1]) from None

    def tested_runner(self, folder: Path, name: str) -> Runner:
        """A new runner of a checkpoint, which passed its consistency check here."""
        runner = Runner.load(folder, name=name, **self.loading)
        try:
            # a model that was put away for room comes back without being checked again: it is the same weights
            if runner.card().sha256 not in self.tested:
                check_consistency(runner, folder)
        except BaseException:
            runner.close()
            raise
        self.tested.add(runner.card().sha256)
        return runner

    def take(self, name: str, runner: Runner) -> None:
        """Puts a runner in its place, and others away until the weights fit."""
        if before := self.runners.pop(name, None):
            self.leave(before)
        self.runners[name], self.cards[name] = runner, runner.card()
        # the one just asked for stays, though it alone is more than the limit
        while self.memory_bytes and len(self.runners) > 1 and sum(one.memory_bytes() for one in self.runners.values()) > self.memory_bytes:
            _, oldest = self.runners.popitem(last=False)
            self.leave(oldest)

    def leave(self, runner: Runner) -> None:
        """Closes a runner once its requests are through."""
        task = asyncio.get_running_loop().create_task(drained(runner))
        self.leaving.add(task)
        task.add_done_callback(self.leaving.discard)

    async def refresh(self) -> list[str]:
        """Looks for newer checkpoints of what is loaded or could not be; names of the models that changed."""
        changed = []
        for name, source in self.sources.items():
            newest = await asyncio.to_thread(source.newest)
            if newest is None or (name in self.cards and (name not in self.runners or step_of(newest) <= self.cards[name].step)):
                continue  # what is put away is opened at its newest when it is asked for
            try:
                runner = await self.opened(newest, name)
            except ValueError as error:
                self.problems[name] = str(error)
                continue
            async with self.locks[name]:
                self.problems.pop(name, None)
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
        """The runner for a request. ValueError where there is no such model, Unavailable where its checkpoint cannot be opened."""
        if model not in self.sources:
            raise ValueError(f"there is no such model; there are {', '.join(self.sources) or 'none'}")
        try:
            return await self.runner(model)
        except ValueError:
            raise Unavailable(30.0) from None


async def drained(runner: Runner) -> None:
    """Closes a runner once nobody is in it, and gives its memory back."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while runner.inside:
                await asyncio.sleep(0.1)
    runner.close()


def step_of(folder: Path) -> int:
    """The step that a checkpoint's folder is named after; 0 where it has another name."""
    name = folder.name.removeprefix("step_")
    return int(name) if name.isdecimal() else 0
