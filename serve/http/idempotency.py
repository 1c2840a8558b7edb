"""The same answer for the same Idempotency-Key: whoever tries again gets what was made, or waits for it, whichever server of the folder is asked.

An answer is a file, named by a digest of its key: a line of JSON, then the body. Who makes it holds a lock that the kernel lets go with its
process; others wait for the file or the lock. Files and locks do for one machine as for storage that machines share, so there is one way.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fastapi import Request
from fastapi.responses import Response

from genlib.files import write_atomically
from genlib.json_text import json_text
from serve import private
from serve.api_error import ApiError, busy
from serve.observability import Metrics

LOG = logging.getLogger("serve.http.idempotency")
FOLDER = ".answers"
"""In the folder of jobs."""
_KEY_CHARACTERS = 255
_ENTRY_BYTES = 1024
"""That a request under way takes: key, fingerprint, and the objects around them."""
_BLOCK_BYTES = 4096
"""Of which a file takes whole ones."""
_SLACK = 16
"""Files are counted once this part of the budget has been written anew, and so much is freed then: to count them for each would take longest."""
_DAY_SECONDS = 24 * 3600.0
"""After its last use an answer is forgotten: a key that comes again then is a new request."""
_POLL_SECONDS = 0.05
"""Between looks at what another server makes."""


async def identity(request: Request) -> tuple[str, str]:
    """A digest of a client's Idempotency-Key, made its own, and one of its request; both empty without one."""
    given = request.headers.get("idempotency-key")
    if given is None:
        return "", ""
    if not 1 <= len(given) <= _KEY_CHARACTERS:
        raise ApiError(400, f"Idempotency-Key has {len(given):,} characters, and must have 1 to {_KEY_CHARACTERS}", param="Idempotency-Key")
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
    """Answers in a folder, the latest within a budget of bytes; requests that come while the first is under way wait for it."""

    def __init__(self, folder: Path, limit_bytes: int, metrics: Metrics) -> None:
        self.folder, self.limit_bytes, self.metrics = folder, limit_bytes, metrics
        self.running: dict[str, tuple[str, asyncio.Task[Response], list[None]]] = {}
        """By key, of this process: fingerprint, the work, and an entry for each who waits."""
        self.uncounted_bytes = limit_bytes
        """Written since files were counted."""

    async def once(self, key: str, fingerprint: str, make: Callable[[], Awaitable[Response]]) -> Response:
        """The answer that is there, or the one that `make` gives; it stops once nobody waits.

        ApiError where another request had the key, or too many requests are under way.
        """
        known = self.kept(key, fingerprint)
        self.metrics.answers.labels("hit" if known or key in self.running else "miss").inc()
        if known:
            return known
        if key not in self.running:
            if (len(self.running) + 1) * _ENTRY_BYTES > self.limit_bytes:
                raise busy(429, "too many requests with an Idempotency-Key are under way; try again, or send none", 1, "overloaded")
            self.running[key] = (fingerprint, asyncio.ensure_future(self._made(key, fingerprint, make)), [])
        before, task, waiting = self.running[key]
        _check_same(before, fingerprint)
        waiting.append(None)
        try:
            return _copy(await asyncio.shield(task))
        except asyncio.CancelledError:
            if len(waiting) == 1:
                task.cancel()
            raise
        finally:
            waiting.pop()
            if not waiting:
                self.running.pop(key, None)

    async def _made(self, key: str, fingerprint: str, make: Callable[[], Awaitable[Response]]) -> Response:
        async with self._claimed(key, fingerprint):
            if (known := self.kept(key, fingerprint)) is not None:  # another server made it meanwhile
                return known
            response = await make()
            await asyncio.to_thread(self.keep, key, fingerprint, response)  # which waits for the disk
            return response

    @asynccontextmanager
    async def _claimed(self, key: str, fingerprint: str) -> AsyncIterator[None]:
        """Inside, no other server makes this answer. ApiError where one makes it of another request."""
        lock: IO[Any] | None = None
        try:
            private.make_folder(self.folder)
            while (lock := _lock(self.folder / f"{key}.lock", fingerprint)) is None:
                await asyncio.sleep(_POLL_SECONDS)
        except OSError as error:  # the answer matters more than that it is made once
            LOG.warning("answers cannot be kept: %s", error.strerror)
        try:
            yield
        finally:
            if lock is not None:
                (self.folder / f"{key}.lock").unlink(missing_ok=True)
                lock.close()

    def kept(self, key: str, fingerprint: str) -> Response | None:
        """The answer that is there. ApiError where it is of another request."""
        path = self.folder / key
        try:
            line, _, body = path.read_bytes().partition(b"\n")
            known = json.loads(line)
            if time.time() - path.stat().st_mtime > _DAY_SECONDS:
                return None
            _touch(path)
            before, status, headers = known["fingerprint"], known["status"], known["headers"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        _check_same(before, fingerprint)
        response = Response(body, status)
        response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return response

    def keep(self, key: str, fingerprint: str, response: Response) -> None:
        """Keeps an answer, in place of the oldest ones; not where it would take the room of all, or nothing can be written."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers]
        known = {"fingerprint": fingerprint, "status": response.status_code, "headers": headers}
        content = json_text(known).encode() + b"\n" + bytes(response.body)
        size = size_on_disk(len(content))
        if size > self.limit_bytes - self.limit_bytes // _SLACK:
            return
        try:
            self.uncounted_bytes += size
            if self.uncounted_bytes > self.limit_bytes // _SLACK:
                self.make_room(size)
            write_atomically(self.folder / key, content, private.FILE)
            _touch(self.folder / key)
        except OSError as error:
            LOG.warning("answers cannot be kept: %s", error.strerror)

    def make_room(self, size: int) -> None:
        """Deletes answers that are forgotten, and the oldest, until so many bytes more keep within the budget."""
        found, horizon = [], time.time_ns() - int(_DAY_SECONDS * 1e9)
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if not entry.name.endswith(".lock"):
                        found.append((status.st_mtime_ns, size_on_disk(status.st_size), entry.path))
        excess = sum(one for _, one, _ in found) + size - (self.limit_bytes - self.limit_bytes // _SLACK)
        for used_ns, one, path in sorted(found):
            if excess <= 0 and used_ns > horizon:
                break
            with suppress(OSError):
                os.unlink(path)
            excess -= one
        self.uncounted_bytes = size


def size_on_disk(size: int) -> int:
    """Bytes that a file of so many takes."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _lock(path: Path, fingerprint: str) -> IO[Any] | None:
    """The lock of an answer, with its request's fingerprint in it; None where another holds it. ApiError where that makes it of another request."""
    file = private.open_file(path, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):  # it was let go and deleted between the two lines above
            raise BlockingIOError
        file.truncate(0)
        file.write(fingerprint)
        file.flush()
    except (BlockingIOError, FileNotFoundError):
        file.seek(0)
        before = file.read()
        file.close()
        _check_same(before or fingerprint, fingerprint)
        return None
    except BaseException:
        file.close()
        raise
    return file


def _touch(path: Path) -> None:
    """Marks an answer as the latest that was used; the system's own times are too coarse for an order."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _check_same(before: str, fingerprint: str) -> None:
    if before != fingerprint:
        raise ApiError(409, "this Idempotency-Key came with another request before; take a new one", code="idempotency_key_reused")


def _copy(response: Response) -> Response:
    copy = Response(response.body, response.status_code)
    copy.raw_headers = list(response.raw_headers)
    return copy
