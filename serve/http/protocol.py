"""How connections are used: no client holds one for ever, by sending the head of a request slowly or without end, or nothing at all, or
by asking for what it does not read; and one that only sends no more, or asks for another protocol, gets its answer.

What uvicorn has no limit for. Bodies have theirs in `serve.http.guard`, which can say more about them.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serve.api_error import ApiError
from serve.http.half_closed import HalfClosed
from serve.http.joined_writes import JoinedWrites
from serve.json_bytes import json_bytes
from serve.options import ServeOptions

HEAD_BYTES = 64 << 10
"""Of a request's first line and headers, and of what stands between two parts of its body or after the last."""
_READ_BYTES_PER_SECOND = 1024
"""Of an answer that a client takes, at the least."""
_OTHER_FILES = 128
"""That a server has open beside its connections."""


class RequestParser(httptools.HttpRequestParser):
    """Reads the requests of a connection. An upgrade that one of them asks for is passed over, as a server may (RFC 9110, 7.8).

    httptools would stop before the body of such a request, and take what follows for the next one.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self.protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own has it

    def feed_data(self, data: Any) -> None:
        """See `httptools.HttpRequestParser`."""
        reader, rest = self, memoryview(data)
        while True:
            try:
                super(RequestParser, reader).feed_data(rest)
                return
            except httptools.HttpParserUpgrade as stopped:
                rest = rest[stopped.args[0] :]
            reader = self.protocol.parser = RequestParser(self.protocol)
            super(RequestParser, reader).feed_data(self.protocol.plain_head)  # raises the same again for CONNECT, which is refused


class Protocol(HttpToolsProtocol):
    """One connection. From its first moment, and from the first byte of each further request on, a whole head must come in time."""

    head_seconds = 10.0
    read_seconds = 30.0
    most_connections = 1000
    _unread = 0
    _reading: asyncio.TimerHandle | None = None
    """While more of an answer waits than the connection's buffer takes, or the rest of one that is all written."""
    _timer: asyncio.TimerHandle | None = None
    _begun = False
    """Whether a part of a head is here, and not yet the whole."""
    _in_body = False
    """Whether a head is here, and not yet the whole of the body."""
    _other_bytes = 0
    """That came since the head began, or since the last of the body's content."""
    _progress = False
    """Whether what came last had something of a body in it, or the end of a request."""
    _running: RequestResponseCycle | None = None
    """The answer that is under way; `cycle` is that of the newest request, which may have to wait for it."""
    _half_closed: HalfClosed | None = None
    plain_head = b""
    """Of a request that asked for an upgrade: the same without it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Of too many connections the newest ends at once: with no file left, none could be taken, or a picture written."""
        super().connection_made(transport)
        self.parser = RequestParser(self)
        self._wait()
        if len(self.connections) > self.most_connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waited()
        self._read()
        if self._half_closed is not None:
            self._half_closed.end()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:  # uvicorn tells the newest request's alone
            self._running.disconnected = True
            self._running.message_event.set()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keeps the connection for the answers to requests that are whole: the client may have closed its sending half alone."""
        if self._in_body and self.pipeline:  # the newest will never be whole; those before it are
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._running  # type: ignore[assignment]
        elif self._in_body:
            return False
        if self._idle() or self._running is None:
            return False
        self._waited()
        self._begun = self._in_body = False
        self.cycle.keep_alive = False
        self._half_closed = HalfClosed(self.transport)
        self._half_closed.watch(self._running)
        return not self.transport.is_closing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()
        self._watch_reader()

    def data_received(self, data: bytes) -> None:
        self._progress = False
        super().data_received(data)
        if (self._begun or self._in_body) and not self._progress:
            self._other_bytes += len(data)
            if self._other_bytes > HEAD_BYTES:
                what = "first line and headers are" if self._begun else "body has something between its parts, or after them, that is"
                self._refuse(ApiError(431, f"the request's {what} longer than {HEAD_BYTES:,} bytes; send less", code="headers_too_large"))
        if self._timer is None and (self._begun or self._idle()):  # idle: what came is no head, such as the rest of a body that nobody read
            self._wait()

    def on_message_begin(self) -> None:
        self._begun, self._other_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Those after a body would be kept without end, and change what was checked."""
        if self._begun:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            self._pass_over_upgrade()
            return
        self._begun, self._in_body, self._other_bytes = False, True, 0
        self._waited()
        super().on_headers_complete()
        self.cycle.transport = JoinedWrites(self.transport, self.loop)  # type: ignore[assignment]
        if not self.pipeline:
            self._running = self.cycle

    def on_body(self, body: bytes) -> None:
        self._progress, self._other_bytes = True, 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._progress, self._in_body = True, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._running = self.pipeline[-1][0] if self.pipeline and not self.transport.is_closing() else None
        super().on_response_complete()
        self._read()
        self._watch_reader()
        if self._half_closed is not None and self._running is not None:
            self._half_closed.watch(self._running)

    def _pass_over_upgrade(self) -> None:
        """Makes ready what `RequestParser` reads in place of a head that asks for an upgrade."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self._refuse(ApiError(501, "this server is no proxy; ask it for its own paths, which /openapi.json lists", code="unsupported"))
        lines = (name + b": " + value for name, value in self.headers if name != b"upgrade")
        self.plain_head = b"\r\n".join((b"%b %b HTTP/%b" % (method, self.url, version), *lines, b"", b""))

    def send_400_response(self, msg: str) -> None:
        """In the shape of all refusals, where no answer is under way."""
        self._refuse(ApiError(400, "this is no HTTP request", code="invalid_request"))

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self._late)

    def _waited(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_reader(self) -> None:
        """Looks again and again whether a client takes what it asked for."""
        unread = self.transport.get_write_buffer_size()
        if not unread or not (self._idle() or self.flow.write_paused):  # all is taken, or more is being written
            self._reading = None
            return
        if self._reading is not None and self._unread - unread < self.read_seconds * _READ_BYTES_PER_SECOND:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()  # and the system, too, drops what waits
            return
        self._unread, self._reading = unread, self.loop.call_later(self.read_seconds, self._watch_reader)

    def _read(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _late(self) -> None:
        self._timer = None
        if not self._idle():  # its answer goes on, and this is of the next one
            self._wait()
        elif self._begun:
            said = f"the request's headers did not come within {self.head_seconds:g} seconds; send it again, faster"
            self._refuse(ApiError(408, said, code="timeout"))
        else:
            self.transport.close()

    def _refuse(self, problem: ApiError) -> None:
        """Says why, where nothing else is being said, and ends the connection."""
        if self.transport.is_closing():
            return
        unanswered = self._in_body and self._running is self.cycle and not self.cycle.response_started
        if unanswered:
            self.cycle.disconnected = True
        if self._idle() or unanswered:
            content = json_bytes(problem.body())
            headers = {"content-type": "application/json", "content-length": len(content), "connection": "close", "x-content-type-options": "nosniff"}
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.transport.write(STATUS_LINE[problem.status] + lines.encode() + b"\r\n" + content)
        self.transport.close()


def uvicorn_settings(options: ServeOptions) -> dict[str, Any]:
    """Arguments of `uvicorn.Config` beside the application and where it listens."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(16, files - _OTHER_FILES) if files != resource.RLIM_INFINITY else 1 << 16
    limits = {
        "head_seconds": options.head_timeout_seconds,
        "read_seconds": options.read_timeout_seconds,
        "most_connections": min(options.connections, most),
    }
    return {
        "http": type("Protocol", (Protocol,), limits), "ws": "none", "proxy_headers": False, "server_header": False, "access_log": False,
        "log_level": "error", "timeout_keep_alive": options.idle_timeout_seconds,
    }  # fmt: skip
