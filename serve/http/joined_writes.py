"""The head of an answer goes out with the first part of its body: each packet of its own is one more time that both ends wake up."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

_CONTINUE = STATUS_LINE[100]
_COPIED_BYTES = 1 << 16
"""More are not worth a copy."""


class JoinedWrites:
    """The transport of one answer, whose first write waits for the second, but no longer than this turn of the event loop."""

    __slots__ = ("_begun", "_head", "_loop", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self.is_closing = transport, loop, transport.is_closing
        self._begun, self._head = False, b""

    def write(self, data: bytes) -> None:
        """As `asyncio.Transport` has it."""
        if not self._begun and not data.startswith(_CONTINUE):  # which asks for the rest of the request
            self._begun, self._head = True, data
            self._loop.call_soon(self.flush)
        elif self._head and len(data) <= _COPIED_BYTES:
            self._head, head = b"", self._head
            self._transport.write(head + data)
        else:
            self.flush()
            self._transport.write(data)

    def flush(self) -> None:
        """Writes what waits."""
        if self._head and not self.is_closing():
            self._transport.write(self._head)
        self._head = b""

    def close(self) -> None:
        """As `asyncio.Transport` has it."""
        self.flush()
        self._transport.close()
