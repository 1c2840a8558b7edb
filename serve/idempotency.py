"""The same answer for the same Idempotency-Key: whoever tries again gets what was made, or waits for it."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.responses import Response

from serve.observability import Metrics
from serve.problem import Problem

_KEY_CHARACTERS = 255


async def identity(request: Request) -> tuple[str, str]:
    """A client's Idempotency-Key, made its own, and the digest of its request; both empty without one."""
    given = request.headers.get("idempotency-key")
    if given is None:
        return "", ""
    if not 1 <= len(given) <= _KEY_CHARACTERS:
        raise Problem(400, f"Idempotency-Key must have 1 to {_KEY_CHARACTERS} characters", param="Idempotency-Key")
    who = request.headers.get("authorization", "") + "\0" + request.headers.get("x-api-key", "")
    whole = f"{request.url.path}\0{request.headers.get('accept', '')}\0".encode() + await _same_body(request)
    return f"{who}\0{given}", hashlib.sha256(whole).hexdigest()


async def _same_body(request: Request) -> bytes:
    """The body, less the boundary of its parts, which a client draws anew each time."""
    body = await request.body()
    _, found, boundary = request.headers.get("content-type", "").partition("boundary=")
    return body.replace(boundary.strip('"').encode(), b"") if found else body


class Answers:
    """Answers by Idempotency-Key, the latest within a budget; requests that come while the first is under way wait for it."""

    def __init__(self, limit_bytes: int, metrics: Metrics) -> None:
        self.limit_bytes, self.metrics = limit_bytes, metrics
        self.done: OrderedDict[str, tuple[str, Response]] = OrderedDict()
        self.running: dict[str, tuple[str, asyncio.Task[Response], list[None]]] = {}

    async def once(self, key: str, fingerprint: str, make: Callable[[], Awaitable[Response]]) -> Response:
        """The answer that is there, or the one that `make` gives; it stops once nobody waits. Problem where another request had the key."""
        known = self.done.get(key) or self.running.get(key)
        self.metrics.answers.labels("hit" if known else "miss").inc()
        if known and known[0] != fingerprint:
            raise Problem(409, "this Idempotency-Key came with another request before; take a new one", code="idempotency_key_reused")
        if key in self.done:
            self.done.move_to_end(key)
            return _copy(self.done[key][1])
        if key not in self.running:
            self.running[key] = (fingerprint, asyncio.ensure_future(make()), [])
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
        """Keeps an answer, in place of the oldest ones."""
        self.done[key] = (fingerprint, response)
        while sum(len(one.body) for _, one in self.done.values()) > self.limit_bytes:
            self.done.popitem(last=False)


def _copy(response: Response) -> Response:
    copy = Response(response.body, response.status_code)
    copy.raw_headers = list(response.raw_headers)
    return copy
