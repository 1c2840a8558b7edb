"""The front's end of the wire: many calls at a time to one replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import count
from typing import Any, Self

from serve import wire
from serve.backend import Event, Result
from serve.listener import Address
from serve.observability import current_request

Call = tuple[str, str, dict[str, Any], dict[str, str] | None]
"""Model, action, arguments and what PNGs say."""
_CONNECT_SECONDS = 5.0


class Lost(Exception):
    """The replica is not there any more, or cannot be reached."""


class Link(wire.Conversation):
    """A connection to one replica."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count()
        self.asked: dict[int, asyncio.Future[Result] | asyncio.Queue[Event | Exception]] = {}
        """What waits for an answer: calls without news, and with."""
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, address: Address) -> Self:
        """A connection that the replica has accepted. Lost where it does not."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, link = await asyncio.get_running_loop().create_connection(cls, address.host, address.port)
                link.send(address.secret)
                await link.admitted
        except (OSError, TimeoutError) as error:
            raise Lost(f"no replica answers at {address.host}:{address.port}") from error
        return link

    @property
    def alive(self) -> bool:
        """Whether there is another end."""
        return self.transport is not None

    @property
    def load(self) -> int:
        """Calls that have no answer yet."""
        return len(self.asked)

    async def run(self, call: Call) -> Result:
        """The call's result; cancelled, the work stops within a step. Lost where the replica goes before it has answered."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        number = self._ask("run", future, call, 0)
        try:
            return await future
        finally:
            self._let_go(number)

    async def stream(self, call: Call, partial_images: int) -> AsyncGenerator[Event, None]:
        """The call's news, its result last; closing it stops the work."""
        queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        number = self._ask("stream", queue, call, partial_images)
        try:
            while True:
                news = await queue.get()
                if isinstance(news, Exception):
                    raise news
                yield news
                if news.kind == "result":
                    return
        finally:
            self._let_go(number)

    def _ask(self, kind: str, waits: asyncio.Future[Result] | asyncio.Queue[Event | Exception], call: Call, partial_images: int) -> int:
        if self.transport is None:
            raise Lost("the replica is gone")
        number = next(self.numbers)
        self.send(number, kind, passed_on(), call, partial_images)
        self.asked[number] = waits
        return number

    def _let_go(self, number: int) -> None:
        if self.asked.pop(number, None) is not None:  # it was not answered
            self.send(number, "cancel")

    def heard(self, *message: Any) -> None:
        """() once the secret was right; then (number, "event", "result" or "error", values)."""
        if not message:
            if not self.admitted.done():
                self.admitted.set_result(None)
            return
        number, kind, values = message
        if number not in self.asked:
            return
        if kind == "event":
            self._tell(number, wire.read_event(values))
            return
        self._tell(number, wire.read_result(values) if kind == "result" else wire.read_error(values))
        del self.asked[number]

    def _tell(self, number: int, news: Event | Result | Exception) -> None:
        waits = self.asked[number]
        if isinstance(waits, asyncio.Queue):
            waits.put_nowait(Event(kind="result", step=0, steps=0, result=news) if isinstance(news, Result) else news)
        elif isinstance(news, Result) and not waits.done():
            waits.set_result(news)
        elif isinstance(news, Exception) and not waits.done():
            waits.set_exception(news)

    def ended(self) -> None:
        """All that wait are told."""
        if not self.admitted.done():
            self.admitted.set_exception(ConnectionError("refused"))
        for number in list(self.asked):
            self._tell(number, Lost("the replica is gone"))
        self.asked.clear()


def passed_on() -> dict[str, str]:
    """Headers of the request for whoever does the work."""
    context = current_request()
    return {"x-request-id": context.request_id, "traceparent": context.traceparent}
