"""An HTTP/1.1 server of files on loopback with ranges, whose requests are counted and may each meet a fault."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

import pytest

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


@dataclass(frozen=True)
class Asked:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def span(self) -> tuple[int, int] | None:
        """(start, end) of the range it asks for."""
        found = _RANGE.fullmatch(self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) + 1) if found and found[2] else None


@dataclass
class FileServer:
    """Serves `files` (path -> content) at `url`; each request takes the next of `faults`, if there is one."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: deque[Callable[[_Handler], None]] = field(default_factory=deque)
    tags: dict[str, str] = field(default_factory=dict)
    """ETag of a path where it is not the digest; "" sends none."""
    dated: bool = True
    """Whether Last-Modified is sent."""
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0
    hold_seconds: float = 0.0
    """How long an answer is held back, so that requests overlap."""

    def __enter__(self) -> Self:
        self._lock, self._now, self.over = threading.Lock(), 0, threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self), bind_and_activate=True)
        self._server.daemon_threads, self._server.request_queue_size = True, 128
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def tag(self, path: str) -> str:
        """ETag of a path."""
        return self.tags[path] if path in self.tags else f'"{hashlib.md5(self.files[path]).hexdigest()}"'

    def note(self, handler: _Handler) -> Callable[[_Handler], None]:
        """Counts a request; what it is to be answered with."""
        with self._lock:
            self.asked.append(Asked(handler.command, handler.path, {name.lower(): value for name, value in handler.headers.items()}))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return self.faults.popleft() if self.faults else _Handler.answer

    def done(self) -> None:
        """Counts an answer that is about to go out."""
        with self._lock:
            self._now -= 1

    def spans(self) -> list[tuple[int, int] | None]:
        """Ranges asked for by GET."""
        return [asked.span for asked in self.asked if asked.method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, server: FileServer, *arguments):
        self.files = server
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        deed = self.files.note(self)
        self.files.over.wait(self.files.hold_seconds)
        self.files.done()  # before the answer: who has it may ask again at once
        with suppress(ConnectionError):
            deed(self)

    do_GET = do_HEAD = do_PUT = do_POST = _serve

    def place(self) -> str:
        """The path without its query, as a file is named."""
        return unquote(self.path.partition("?")[0])

    def head(self, status: int, length: int | None, **headers: str) -> None:
        """Sends the status line and headers of an answer."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer(self) -> None:
        """What a sound server says."""
        content = self.files.files.get(self.place())
        if content is None or self.command not in ("GET", "HEAD"):
            return self.refuse(404 if self.command in ("GET", "HEAD") else 405)
        wanted = self.headers.get("If-Match")
        if wanted and self.files.tag(self.place()) not in wanted:
            return self.refuse(412)
        start, end = self.span(content)
        if self.headers.get("Range") and start >= len(content):
            return self.refuse(416)
        self.begin(content, start, end)
        if self.command == "GET":
            self.wfile.write(content[start:end])

    def span(self, content: bytes) -> tuple[int, int]:
        """What of the content is asked for."""
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        if not found:
            return 0, len(content)
        return int(found[1]), min(len(content), int(found[2]) + 1 if found[2] else len(content))

    def begin(self, content: bytes, start: int, end: int) -> None:
        """Sends the headers of content[start:end]."""
        headers = {"Accept_Ranges": "bytes"}
        if tag := self.files.tag(self.place()):
            headers["ETag"] = tag
        if self.files.dated:
            headers["Last_Modified"] = _DATE
        if self.headers.get("Range"):
            headers["Content_Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self.head(206 if self.headers.get("Range") else 200, end - start, **headers)

    def refuse(self, status: int, body: bytes = b"no", **headers: str) -> None:
        """Answers with an error."""
        self.head(status, len(body), **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def drop(self, *, rudely: bool) -> None:
        """Ends the connection, by a reset or in order."""
        if rudely:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.wfile.flush()
        self.close_connection = True
        self.connection.close() if rudely else self.connection.shutdown(socket.SHUT_WR)

    def part(self, num_bytes: int) -> None:
        """Sends true headers and the first bytes of the body alone."""
        content = self.files.files[self.place()]
        start, end = self.span(content)
        self.begin(content, start, end)
        self.wfile.write(content[start : min(end, start + num_bytes)])
        self.wfile.flush()


def sound(handler: _Handler) -> None:
    """No fault at this request."""
    handler.answer()


def status(code: int, body: bytes = b"no", **headers: str) -> Callable[[_Handler], None]:
    """An error or a redirection in place of the content."""
    return lambda handler: handler.refuse(code, body, **headers)


def reset(num_bytes: int) -> Callable[[_Handler], None]:
    """A reset of the connection within the body."""

    def deed(handler: _Handler) -> None:
        handler.part(num_bytes)
        handler.files.over.wait(0.05)  # a reset overtakes what was sent
        handler.drop(rudely=True)

    return deed


def refuse_at_once(handler: _Handler) -> None:
    """A reset before any answer."""
    handler.drop(rudely=True)


def truncate(num_bytes: int) -> Callable[[_Handler], None]:
    """The true length is promised, and fewer bytes are sent before an orderly end."""

    def deed(handler: _Handler) -> None:
        handler.part(num_bytes)
        handler.drop(rudely=False)

    return deed


def stall(num_bytes: int | None = None) -> Callable[[_Handler], None]:
    """Nothing more comes after some bytes of the body, or, without a number, no answer at all."""

    def deed(handler: _Handler) -> None:
        if num_bytes is not None:
            handler.part(num_bytes)
        handler.files.over.wait(30)
        handler.close_connection = True

    return deed


def drip(handler: _Handler) -> None:
    """One byte at a time, far too slowly, so that no single wait is long."""
    handler.part(0)
    while not handler.files.over.wait(0.05):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def whole(handler: _Handler) -> None:
    """All of the file with status 200, whatever range is asked for."""
    del handler.headers["Range"]
    handler.answer()


def other_range(shift: int, longer: int = 0) -> Callable[[_Handler], None]:
    """A sound answer for another range than was asked for."""

    def deed(handler: _Handler) -> None:
        start, end = handler.span(handler.files.files[handler.place()])
        handler.headers.replace_header("Range", f"bytes={start + shift}-{end + shift + longer - 1}")
        handler.answer()

    return deed


def _endless(handler: _Handler) -> Iterator[int]:
    while not handler.files.over.is_set():
        yield handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def endless(code: int) -> Callable[[_Handler], None]:
    """A body without a length that never ends; `sent` counts what the other side took."""

    def deed(handler: _Handler) -> None:
        content = handler.files.files[handler.place()]
        start, end = handler.span(content)
        place = {"Content_Range": f"bytes {start}-{end - 1}/{len(content)}"} if code == 206 else {}
        handler.head(code, None, Transfer_Encoding="chunked", ETag=handler.files.tag(handler.place()), **place)
        handler.close_connection = True
        deque(_endless(handler), maxlen=0)

    return deed


def garbage(handler: _Handler) -> None:
    """Something that is not HTTP."""
    handler.wfile.write(b"\x00\xff" * 512)
    handler.drop(rudely=False)


def flood(handler: _Handler) -> None:
    """The range that was asked for, by its headers, and a body of far more bytes."""
    content = handler.files.files[handler.place()]
    start, end = handler.span(content)
    handler.head(206, 1 << 40, ETag=handler.files.tag(handler.place()), Content_Range=f"bytes {start}-{end - 1}/{len(content)}")
    handler.close_connection = True
    while not handler.files.over.is_set():
        handler.wfile.write(bytes(1 << 16))


@contextmanager
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server on loopback, as boto3 shows it. A process keeps its clients by bucket: each server's need names of their own."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    try:
        yield boto3.client("s3", endpoint_url=endpoint)
    finally:
        server.stop()
