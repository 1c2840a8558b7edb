"""What a request that runs in threads tells the event loop on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from torch import Tensor

from serve.backend import Event, Result


class ProgressEvents:
    """Events of one request: `step` is called by the thread that takes its steps, `until` yields them in the event loop."""

    def __init__(self, partial_images: int, encode: Callable[[Tensor], list[bytes]]) -> None:
        self.partial_images, self.encode, self.steps = partial_images, encode, 0
        self.loop, self.events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

    def step(self, step: int, steps: int, x: Tensor, x0: Tensor | None) -> None:
        """A `StepCallback`."""
        self.steps = steps
        images = self.encode(x0) if x0 is not None and step + 1 in self.due(steps) else []
        event = Event(kind="partial" if images else "progress", step=step + 1, steps=steps, images=images)
        self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    def due(self, steps: int) -> set[int]:
        """Steps after which pictures are shown, evenly spread before the last; fewer where there are not so many."""
        return {round(steps * number / (self.partial_images + 1)) for number in range(1, self.partial_images + 1)} - {0, steps}

    async def until(self, work: asyncio.Task[Result]) -> AsyncIterator[Event]:
        """All events until the work ends; the last is its result."""
        work.add_done_callback(lambda _: self.events.put_nowait(None))
        while event := await self.events.get():
            yield event
        yield Event(kind="result", step=self.steps, steps=self.steps, result=await work)
