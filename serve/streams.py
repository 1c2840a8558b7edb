"""Server-sent events (HTML standard, section 9.2): named by their type, `[DONE]` last, a comment where there is no news for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.api_error import ApiError, as_problem
from serve.json_bytes import json_bytes

Event = dict[str, Any]
"""An event's data; `type` is its name and `id` its number, which is not repeated in the data."""
_FIRST_SECONDS = 0.5
"""What fails within this time is answered with its own status, later in the stream."""


class EventStream(StreamingResponse):
    """Events from a task of its own, which ends with the response."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Event, None], heartbeat_seconds: float, timeout_seconds: float | None) -> None:
        self.queue: asyncio.Queue[Event | ApiError | None] = asyncio.Queue(4)
        self.pump = asyncio.ensure_future(pumped(events, self.queue, timeout_seconds))
        self.heartbeat_seconds = heartbeat_seconds
        self.early: list[Event | None] = []
        super().__init__(self.lines(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def begin(self) -> None:
        """Waits a moment for the first event. Raises where it is a problem."""
        with suppress(TimeoutError):
            first = await asyncio.wait_for(self.queue.get(), _FIRST_SECONDS)
            if isinstance(first, ApiError):
                raise first
            self.early.append(first)

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The events on the wire."""
        yield b": open\n\n"
        while True:
            try:
                event = self.early.pop() if self.early else await asyncio.wait_for(self.queue.get(), self.heartbeat_seconds)
            except TimeoutError:
                yield b": alive\n\n"
                continue
            if event is None:
                break
            yield line_of(event.body() if isinstance(event, ApiError) else event)
        yield b"data: [DONE]\n\n"

    async def close(self) -> None:
        """Stops what makes the events."""
        self.pump.cancel()
        with suppress(asyncio.CancelledError):
            await self.pump

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.close()


async def event_stream(events: AsyncGenerator[Event, None], heartbeat_seconds: float, timeout_seconds: float | None = None) -> Response:
    """A response of events. ApiError where the first thing that happens is one."""
    response = EventStream(events, heartbeat_seconds, timeout_seconds)
    try:
        await response.begin()
    except BaseException:
        await response.close()
        raise
    return response


def line_of(event: Event) -> bytes:
    """An event on the wire."""
    number = f"id: {event['id']}\n" if "id" in event else ""
    data = {key: value for key, value in event.items() if key != "id"}
    return f"{number}event: {event.get('type', 'error')}\ndata: ".encode() + json_bytes(data) + b"\n\n"


async def pumped(events: AsyncGenerator[Event, None], queue: asyncio.Queue[Event | ApiError | None], timeout_seconds: float | None) -> None:
    """Hands events on; a problem is the last one, None the end."""
    try:
        async with asyncio.timeout(timeout_seconds), aclosing(events) as source:
            async for event in source:
                await queue.put(event)
    except (ApiError, TimeoutError) as error:
        await queue.put(as_problem(error, timeout_seconds=timeout_seconds))
    except Exception:
        await queue.put(ApiError(500, "the server failed; the request's id is in the header x-request-id", code="internal_error"))
        await queue.put(None)
        raise
    await queue.put(None)
