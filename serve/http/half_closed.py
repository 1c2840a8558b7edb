"""Whether a client that sends no more still waits for its answer."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_BEGINNING = b"HTTP/1.1 "
"""Of every answer, whatever it is going to be."""
_LOOK_SECONDS = 0.01, 0.04, 0.15, 0.3
"""Between the first looks; the last of them, too, between all that follow."""
_PROBE_SECONDS = 1.0
"""From the first probe to the second; each further one waits twice as long."""


class ReadAhead:
    """The transport of an answer of which some bytes were sent before the answer was there."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport, self.sent = transport, 0
        self.close, self.is_closing = transport.close, transport.is_closing

    def send(self) -> None:
        """The next byte, while there are any that are known."""
        self.transport.write(_BEGINNING[self.sent : self.sent + 1])
        self.sent = min(self.sent + 1, len(_BEGINNING))

    def write(self, data: bytes) -> None:
        """The answer, less what was sent of it."""
        self.transport.write(data[self.sent :])
        self.sent = 0


class HalfClosed:
    """Ends a connection once nobody reads there any more.

    To close a socket and to shut down its sending half look the same from here, until something is sent: a system whose socket is closed
    resets the connection then. So the first bytes of the answer go out ahead of it, one now and then, which a client that waits cannot
    tell from a slow answer. An answer that has begun is its own probe.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.answer: RequestResponseCycle | None = None
        self.ahead = ReadAhead(transport)
        self.looks, self.wait, self.due = 0, _PROBE_SECONDS, 0.0
        self.timer: asyncio.TimerHandle | None = None

    def watch(self, answer: RequestResponseCycle) -> None:
        """Looks after the client whose answer is under way, in place of one that is over."""
        self.end()
        self.answer, self.ahead = answer, ReadAhead(self.transport)
        self.looks, self.wait, self.due = 0, _PROBE_SECONDS, self.loop.time()
        if not answer.response_started:
            answer.transport = self.ahead  # type: ignore[assignment]
        self._look()

    def end(self) -> None:
        """Looks no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _look(self) -> None:
        if self.transport.is_closing() or self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        assert self.answer is not None
        if not self.answer.response_started and self.loop.time() >= self.due:
            self.ahead.send()
            self.due, self.wait = self.loop.time() + self.wait, 2 * self.wait
        self.timer = self.loop.call_later(_LOOK_SECONDS[min(self.looks, len(_LOOK_SECONDS) - 1)], self._look)
        self.looks += 1
