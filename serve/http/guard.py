"""The gate before every route: who asks, from which page, how much and how fast, and that work stops once nobody waits for it.

All is refused that is not allowed: a path that is not in `open_paths` needs the key, whether there is such a route or not.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import logging
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genlib.plurals import counted
from serve.api_error import ApiError, as_problem, busy
from serve.deadline import Deadline
from serve.http.allocator import give_back
from serve.http.disconnects import ClientDisconnected, DisconnectWatcher
from serve.json_bytes import json_bytes
from serve.observability import Metrics, RequestContext, begin_request, log
from serve.options import ServeOptions, is_loopback

LOG = logging.getLogger("serve.http.guard")
_HOST_CHARACTERS = 512
"""More than any name and port have; what is longer is no name of ours."""
_LARGE_BYTES = 1 << 20
"""Of a body after which memory is given back."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_SINGLE = (
    "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "authorization", "x-api-key", "idempotency-key", "origin",
    "sec-fetch-site", "last-event-id", "expect",
)  # fmt: skip
"""Headers of which one request has one, equal or not: who is in front of this server, or behind it, may go by another of them."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    ),
)
"""Of every answer: what a browser may do with it."""


def digests_of(keys: Sequence[str]) -> list[bytes]:
    """What keys are compared by."""
    return [hashlib.sha256(key.encode()).digest() for key in keys]


def may_ask(headers: Mapping[str, str], digests: Sequence[bytes]) -> bool:
    """Whether there are no keys, or a request has one: in constant time, and by digests, so that not even the lengths of keys show."""
    if not digests:
        return True
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    digest = hashlib.sha256(given.encode("latin-1")).digest()
    return True in [hmac.compare_digest(digest, one) for one in digests]  # all are compared, whichever fits


class Guard:
    """ASGI middleware; `open_paths` need no key, as whoever asks for them cannot have one or has nothing to gain."""

    def __init__(self, app: ASGIApp, options: ServeOptions, metrics: Metrics, open_paths: Collection[str]) -> None:
        self.app, self.options, self.metrics, self.open_paths = app, options, metrics, frozenset(open_paths)
        self.digests = digests_of(options.keys)
        self.open = self.at_once = self.held_bytes = 0
        metrics.open.set_function(lambda: self.open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            await self.exchange(scope, headers, receive, ResponseSender(send, begin_request(headers, scope["method"])))

    async def exchange(self, scope: Scope, headers: Mapping[str, str], receive: Receive, answer: ResponseSender) -> None:
        """One request from its first to its last byte, counted and logged."""
        self.open += 1
        try:
            await self.admitted(scope, headers, receive, answer)
        except (ClientDisconnected, asyncio.CancelledError) as error:
            answer.context.status = answer.context.status or 499
            self.metrics.cancelled.labels("request").inc()
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception as error:
            await self.failed(error, answer)
        finally:
            answer.context.route = getattr(scope.get("route"), "path", "other")
            self.open -= 1
            self.metrics.closed(answer.context)
            log(answer.context, prompts=self.options.log_prompts)

    async def failed(self, error: Exception, answer: ResponseSender) -> None:
        """Tells the client, as far as it can still be told."""
        problem = as_problem(error) if isinstance(error, ApiError) else None
        if problem is None:
            LOG.error("request %s failed", answer.context.request_id, exc_info=error)
            problem = ApiError(500, "the server failed; the request's id is in the header x-request-id", code="internal_error")
        if not answer.context.status:
            await answer.problem(problem)

    async def admitted(self, scope: Scope, headers: Mapping[str, str], receive: Receive, answer: ResponseSender) -> None:
        """Lets a request in, within the number that may be in at once."""
        # all that headers tell comes before the body: who may not ask must not make the server read
        check_single(scope, headers)
        self.check_host(headers)
        if scope["path"] not in self.open_paths:
            self.check_key(headers)
        if scope["method"] not in _SAFE:
            self.check_origin(headers)
        # not counted: a busy server that refused a probe would be restarted by its cluster
        if scope["path"] in self.open_paths:
            await self.app(scope, receive, answer.send)
            return
        if self.at_once >= self.options.requests_at_once:
            raise busy(429, f"{counted(self.at_once, 'request is', 'requests are')} being answered, which is the limit; try again", 1, "overloaded")
        self.at_once += 1
        body = b""
        try:
            body = await self.body(headers, receive)
            await DisconnectWatcher(body, receive, lambda: answer.response_complete).run(lambda read: self.app(scope, read, answer.send))
        finally:
            self.at_once -= 1
            self.held_bytes -= (size := len(body))
            if size > _LARGE_BYTES:
                del body
                # in a thread: every heap is walked, and the event loop would answer nobody meanwhile
                asyncio.get_running_loop().run_in_executor(None, give_back)

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Without a key, no name that others chose for this address: a page of theirs would count as ours (DNS rebinding)."""
        if self.digests:
            return
        host, ours = host_of(headers.get("host", "")[:_HOST_CHARACTERS])
        if not ours and host not in (self.options.host, *self.options.hosts):
            raise ApiError(
                403, "this server is not known under that name; use 127.0.0.1, or start it with that name among its --hosts", code="unknown_host"
            )

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Problem where a key is needed and none fits."""
        if not may_ask(headers, self.digests):
            raise ApiError(
                401,
                "a valid API key is needed; send it as `Authorization: Bearer ...`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """What changes state comes from our own page, from one that is allowed, or from no browser at all."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        if origin in self.options.cors_origins:
            return
        try:
            same = origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        except ValueError:
            same = False
        if not same or site not in ("same-origin", "none"):
            raise ApiError(
                403, "this comes from another site's page; to allow that, start the server with its origin among --cors-origins", code="cross_origin"
            )

    async def body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """The whole body, counted among what is held. ApiError 413 where it is too large, 408 where too slow, 503 where there is no room."""
        limit, declared = self.options.limits.body_bytes, headers.get("content-length", "0")
        if not declared.isdecimal():
            raise ApiError(400, "Content-Length is no number; send that of the body's bytes", code="invalid_length", headers=_CLOSE)
        if (size := int(declared[:20])) > limit:
            raise _too_large(limit, f"{size:,}")
        body, size, loop = bytearray(), 0, asyncio.get_running_loop()  # of a list, chunks of a byte would take fifty times what they hold
        end = loop.time() + self.options.body_timeout_seconds
        try:
            with Deadline(end, loop) as deadline:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnected
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    self.hold(len(chunk))
                    if size > limit:
                        raise _too_large(limit, "more")
                    if not body and not message.get("more_body", False):
                        return chunk
                    body += chunk
                    if not message.get("more_body", False):
                        return bytes(body)
                    # no credit for what came fast before: in any time, all but `body_timeout_seconds` of it is at the rate
                    end = min(end + len(chunk) / self.options.body_bytes_per_second, loop.time() + self.options.body_timeout_seconds)
                    deadline.move(end)
        except BaseException as error:
            self.held_bytes -= size
            if isinstance(error, TimeoutError):
                rate = f"{self.options.body_bytes_per_second:,} bytes a second"
                raise ApiError(408, f"the body came at less than {rate}; send it again, faster", code="timeout", headers=_CLOSE) from None
            raise

    def hold(self, size: int) -> None:
        """Counts bytes that are held."""
        self.held_bytes += size
        if self.held_bytes > self.options.limits.bodies_bytes:
            raise busy(503, "the bodies of other requests fill the room there is; try again", 1, "overloaded")


def check_single(scope: Scope, headers: Mapping[str, str]) -> None:
    """Problem 400 where one of the headers that decide something comes twice, or HTTP/1.1's Host not at all (RFC 9112, 3.2)."""
    if len(headers) < len(scope["headers"]):
        names = [name.decode("latin-1") for name, _ in scope["headers"]]
        if twice := [name for name in _SINGLE if names.count(name) > 1]:
            raise ApiError(400, f"the header {twice[0]} comes more than once; send one", code="invalid_request", headers=_CLOSE)
    if "host" not in headers and scope.get("http_version") == "1.1":
        raise ApiError(400, "the header Host is missing, which every HTTP/1.1 request has", code="invalid_request", headers=_CLOSE)


@functools.lru_cache(1024)
def host_of(header: str) -> tuple[str, bool]:
    """The name in a Host header, without its port, and whether only this machine can be reached by it; no name where it cannot be taken apart."""
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        host = ""
    return host, is_loopback(host)


class ResponseSender:
    """The way back to the client, which puts on every response what all have in common."""

    def __init__(self, send: Send, context: RequestContext) -> None:
        self._send, self.context, self.response_complete = send, context, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.context.status = message["status"]
            given = message.get("headers", ())
            names = {name for name, _ in given}
            ours = (b"x-request-id", self.context.request_id.encode()), (b"traceparent", self.context.traceparent.encode())
            message = {**message, "headers": [*given, *[header for header in (*_HEADERS, *ours) if header[0] not in names]]}
        else:
            self.response_complete = not message.get("more_body", False)
            message = {**message, "body": b""} if self.context.method == "HEAD" else message
        await self._send(message)

    async def problem(self, problem: ApiError) -> None:
        """A whole response that says what went wrong."""
        content = json_bytes(problem.body())
        headers = {"cache-control": "no-store", "content-type": "application/json", "content-length": str(len(content)), **problem.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": content})


_CLOSE = {"Connection": "close"}
"""Of a request whose body was not read to its end: what follows on the connection is still that."""


def _too_large(limit: int, size: str) -> ApiError:
    return ApiError(413, f"the body may have {limit:,} bytes and has {size}; send less", code="body_too_large", headers=_CLOSE)
