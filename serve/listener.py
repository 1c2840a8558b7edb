"""A replica's end of the wire: runs the calls of every front that knows its secret."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import traceback
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from serve import wire
from serve.backend import Backend, Overloaded
from serve.observability import begin_request, current_request

LOG = logging.getLogger("serve.replica")
_SECRET_SECONDS = 10.0
"""Within which a connection must have said the secret."""
_SECRET_BYTES = 1024
"""More than that is not read before."""
_RETRY_AFTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica listens, and what it wants to hear first."""

    host: str
    port: int
    secret: str


class Listener:
    """Runs a backend's actions for whoever connects and knows the secret.

    `room`: calls that may run or wait here at a time; more are refused.
    """

    def __init__(self, backend: Backend, room: int = 256) -> None:
        self.backend, self.room = backend, room
        self.secret = secrets.token_hex(32)
        self.tasks: set[asyncio.Task] = set()
        """Calls that run or wait."""
        self.callers: set[_Caller] = set()
        self.server: asyncio.Server | None = None

    async def open(self, host: str) -> Address:
        """Listens on a free port of one of this machine's addresses."""
        self.server = await asyncio.get_running_loop().create_server(lambda: _Caller(self), host, 0)
        return Address(host, self.server.sockets[0].getsockname()[1], self.secret)

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Takes no more connections, waits for the calls that run, and ends those it has."""
        if self.server is not None:
            self.server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while self.tasks:
                    await asyncio.wait(set(self.tasks))
        for caller in list(self.callers):
            caller.close()


class _Caller(wire.Conversation):
    """A front that has connected."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(_SECRET_BYTES)
        self.listener, self.known = listener, False
        self.running: dict[int, asyncio.Task] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for the secret, but not for long."""
        super().connection_made(transport)
        self.listener.callers.add(self)
        asyncio.get_running_loop().call_later(_SECRET_SECONDS, lambda: self.known or self.close())

    def heard(self, *message: Any) -> None:
        """(secret,) first, which is answered by (); then (number, "run" or "stream", ...) and (number, "cancel")."""
        if not self.known:
            self.admit(*message)
            return
        number, kind, *rest = message
        if kind == "cancel":
            if task := self.running.get(number):
                task.cancel()
            return
        task = self.running[number] = asyncio.get_running_loop().create_task(self.answer(number, kind, *rest))
        self.listener.tasks.add(task)

        def over(task: asyncio.Task) -> None:
            self.listener.tasks.discard(task)
            del self.running[number]

        task.add_done_callback(over)

    def admit(self, secret: Any) -> None:
        """Compares in constant time."""
        if not isinstance(secret, str) or not hmac.compare_digest(secret.encode(), self.listener.secret.encode()):
            self.close()
            return
        self.known, self.reader = True, wire.Reader(wire.LARGEST_BYTES)
        self.send()

    async def answer(self, number: int, kind: str, context: dict[str, str], call: list[Any], partial_images: int) -> None:
        """Runs one call and says its news, then its result or its error."""
        begin_request(context)
        try:
            if len(self.listener.tasks) > self.listener.room:
                raise Overloaded(_RETRY_AFTER_SECONDS)
            await (self.run if kind == "run" else self.stream)(number, *call, partial_images=partial_images)
        except Exception as error:
            said = wire.plain_error(error)
            if said[0] == RuntimeError.__name__:
                exchange = current_request()
                LOG.error(
                    "call failed", exc_info=error, extra={"values": {"request_id": exchange.request_id, "trace_id": exchange.traceparent[3:35]}}
                )
            self.send(number, "error", said)
            traceback.clear_frames(error.__traceback__)  # they hold the error's call and it them: its arrays would stay until the next collection

    async def run(self, number: int, model: str, action: str, arguments: dict[str, Any], parameters: Any, *, partial_images: int) -> None:
        """One call, without news."""
        result = await self.listener.backend.run(model, action, arguments, parameters=parameters)
        self.send(number, "result", wire.plain_result(result))

    async def stream(self, number: int, model: str, action: str, arguments: dict[str, Any], parameters: Any, *, partial_images: int) -> None:
        """One call, with news."""
        stream = self.listener.backend.stream(model, action, arguments, partial_images=partial_images, parameters=parameters)
        async with aclosing(stream) as events:  # type: ignore[type-var]
            async for event in events:
                if event.result is None:
                    self.send(number, "event", wire.plain_event(event))
                else:
                    self.send(number, "result", wire.plain_result(event.result))

    def ended(self) -> None:
        """Nobody waits for its calls any more."""
        self.listener.callers.discard(self)
        for task in list(self.running.values()):
            task.cancel()
