"""The same answer for the same Idempotency-Key: whoever tries again gets what was made, or waits for it."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.responses import Response

from serve.observability import Metrics
from serve.problem import Problem, busy

_KEY_CHARACTERS = 255
_ENTRY_BYTES = 1024
"""That an entry takes beside the bytes of its answer: key, fingerprint, and the objects around them."""
_HEADER_BYTES = 160
"""That a header takes beside its own bytes."""


async def identity(request: Request) -> tuple[str, str]:
    """A digest of a client's Idempotency-Key, made its own, and one of its request; both empty without one."""
    given = request.headers.get("idempotency-key")
    if given is None:
        return "", ""
    if not 1 <= len(given) <= _KEY_CHARACTERS:
        raise Problem(400, f"Idempotency-Key must have 1 to {_KEY_CHARACTERS} characters", param="Idempotency-Key")
    who = request.headers.get("authorization", "") + "\0" + request.headers.get("x-api-key", "")
    whole = hashlib.sha256(f"{request.url.path}\0{request.headers.get('accept', '')}\0".encode())
    whole.update(await _same_body(request))
    return hashlib.sha256(f"{who}\0{given}".encode()).hexdigest(), whole.hexdigest()


async def _same_body(request: Request) -> bytes:
    """The body, less the boundary of its parts, which a client draws anew each time."""
    body = await request.body()
    _, found, boundary = request.headers.get("content-type", "").partition("boundary=")
    return body.replace(boundary.strip('"').encode(), b"") if found else body


class Answers:
    """Answers by Idempotency-Key, the latest within a budget of all that they hold; requests that come while the first is under way wait for it."""

    def __init__(self, limit_bytes: int, metrics: Metrics) -> None:
        self.limit_bytes, self.metrics = limit_bytes, metrics
        self.done: OrderedDict[str, tuple[str, Response]] = OrderedDict()
        self.done_bytes = 0
        self.running: dict[str, tuple[str, asyncio.Task[Response], list[None]]] = {}

    async def once(self, key: str, fingerprint: str, make: Callable[[], Awaitable[Response]]) -> Response:
        """The answer that is there, or the one that `make` gives; it stops once nobody waits.

        Problem where another request had the key, or the requests that are under way fill the budget.
        """
        known = self.done.get(key) or self.running.get(key)
        self.metrics.answers.labels("hit" if known else "miss").inc()
        if known and known[0] != fingerprint:
            raise Problem(409, "this Idempotency-Key came with another request before; take a new one", code="idempotency_key_reused")
        if key in self.done:
            self.done.move_to_end(key)
            return _copy(self.done[key][1])
        if key not in self.running:
            if (len(self.running) + 1) * _ENTRY_BYTES > self.limit_bytes:
                raise busy(429, "too many requests with an Idempotency-Key are under way; try again, or send none", 1, "overloaded")
            self.running[key] = (fingerprint, asyncio.ensure_future(make()), [])
            self.make_room()
        _, task, waiting = self.running[key]
        waiting.append(None)
        try:
            response = await asyncio.shield(task)
        except asyncio.CancelledError:
            if len(waiting) == 1:
                task.cancel()
            raise
        finally:
            waiting.pop()
            if not waiting:
                self.running.pop(key, None)
        self.keep(key, fingerprint, response)
        return _copy(response)

    def keep(self, key: str, fingerprint: str, response: Response) -> None:
        """Keeps an answer, in place of the oldest ones; not where it would take the room of all."""
        if key in self.done or size_of(response) > self.limit_bytes:
            return
        self.done[key] = (fingerprint, response)
        self.done_bytes += size_of(response)
        self.make_room()

    def make_room(self) -> None:
        """Lets the oldest answers go until the others, and the requests that are under way, keep within the budget."""
        while self.done and self.done_bytes + len(self.running) * _ENTRY_BYTES > self.limit_bytes:
            _, (_, response) = self.done.popitem(last=False)
            self.done_bytes -= size_of(response)


def size_of(response: Response) -> int:
    """Bytes that an entry with this answer takes, at the most."""
    return len(response.body) + sum(len(name) + len(value) + _HEADER_BYTES for name, value in response.raw_headers) + _ENTRY_BYTES


def _copy(response: Response) -> Response:
    copy = Response(response.body, response.status_code)
    copy.raw_headers = list(response.raw_headers)
    return copy
