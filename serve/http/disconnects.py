"""Work that ends with the connection of the client who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive

PATIENCE_SECONDS = 0.25
"""Work that is done sooner is not watched: to look after every client costs as much as a small model, and many wait together where there is load."""


class ClientDisconnected(Exception):
    """The client has gone away; 499 is what others log for that."""


class DisconnectWatcher:
    """Stops the task that it was made in once the client has gone, unless the response is complete: its connection may end."""

    def __init__(self, body: bytes, receive: Receive, response_complete: Callable[[], bool]) -> None:
        self._body: bytes | None = body
        self._receive, self._response_complete = receive, response_complete
        self._gone, self._task = asyncio.Event(), asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[Receive], Awaitable[None]]) -> None:
        """Runs the work, which reads what was read already. Raises ClientDisconnected where the client goes away before it is answered."""
        timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._begin)
        try:
            await work(self.receive)
        except asyncio.CancelledError:
            if self._gone.is_set() and self._task is not None and not self._task.uncancel():
                raise ClientDisconnected from None
            raise
        finally:
            timer.cancel()
            if self._watcher:
                self._watcher.cancel()
                await asyncio.wait({self._watcher})

    async def receive(self) -> Message:
        """The whole body, then that the client has gone."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._response_complete() and self._task is not None:
            self._gone.set()
            self._task.cancel()
