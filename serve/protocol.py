"""How connections are used: no client holds one for ever, by sending the head of a request slowly or without end, or nothing at all, or
by asking for what it does not read.

What uvicorn has no limit for. Bodies have theirs in `serve.guard`, which can say more about them.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.guard import json_bytes
from serve.options import ServeOptions
from serve.problem import Problem

HEAD_BYTES = 64 << 10
"""Of a request's first line and headers."""
_READ_BYTES_PER_SECOND = 1024
"""Of an answer that a client takes, at the least."""
_OTHER_FILES = 128
"""That a server has open beside its connections."""


class Protocol(HttpToolsProtocol):
    """One connection. From its first moment, and from the first byte of each further request on, a whole head must come in time."""

    head_seconds = 10.0
    read_seconds = 30.0
    most_connections = 1000
    _unread = 0
    _reading: asyncio.TimerHandle | None = None
    """While more of an answer waits than the connection's buffer takes."""
    _timer: asyncio.TimerHandle | None = None
    _begun = False
    """Whether a part of a head is here, and not yet the whole."""
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Of too many connections the newest ends at once: with no file left, none could be taken, or a picture written."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.most_connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waited()
        self._read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._read()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._begun:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                message = f"the request's first line and headers are longer than {HEAD_BYTES:,} bytes; send less"
                self._refuse(Problem(431, message, code="headers_too_large"))
        if self._timer is None and (self._begun or self._idle()):  # idle: what came is no head, such as the rest of a body that nobody read
            self._wait()

    def on_message_begin(self) -> None:
        self._begun, self._head_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Those after a body would be kept without end, and change what was checked."""
        if self._begun:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._begun = False
        self._waited()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """In the shape of all refusals, where no answer is under way."""
        self._refuse(Problem(400, "this is no HTTP request", code="invalid_request"))

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
            self._refuse(Problem(408, "the request's headers came too slowly; send it again, faster", code="timeout"))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Says why, where nothing else is being said, and ends the connection."""
        if self.transport.is_closing():
            return
        if self._idle():
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
        "log_level": "error", "timeout_keep_alive": options.idle_timeout_seconds, "timeout_graceful_shutdown": 30,
    }  # fmt: skip
