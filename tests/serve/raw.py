"""HTTP by hand, for what no client library would send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

from tests.serve.models import SOON

GENERATE = "/v1/images/generations"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    """A connection to a server at http://HOST:PORT."""
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=SOON) as connection:
        yield connection


def head(*lines: str, method: str = "POST", path: str = GENERATE, version: str = "1.1") -> bytes:
    """The first line and the headers of a request with JSON."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", "Content-Type: application/json", *lines, "", ""]).encode()


def request(*lines: str, version: str = "1.1", **body: Any) -> bytes:
    """A whole request for pictures."""
    content = json.dumps(body).encode()
    return head(*lines, f"Content-Length: {len(content)}", version=version) + content


def chunked(content: bytes, size: int) -> bytes:
    """A body in chunks of so many bytes."""
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def answer(connection: socket.socket, method: str = "POST") -> tuple[int, Any, dict[str, str]]:
    """The next answer's status, its JSON, and its headers in lower case. Reads no byte beyond it."""
    response = HTTPResponse(_Slow(connection), method=method)  # type: ignore[arg-type]
    response.begin()
    content = response.read()
    return response.status, json.loads(content) if content else None, {name.lower(): value for name, value in response.getheaders()}


def everything(connection: socket.socket) -> bytes:
    """All that the server says until it ends the connection."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


class _Slow:
    """A connection as `HTTPResponse` wants it, whose file takes nothing in advance."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def makefile(self, mode: str) -> Any:
        return self.connection.makefile(mode, buffering=0)
