"""What the HTTP front and a replica say to each other over a socket: messages of plain values and arrays, as msgpack.

The numbers of a message's arrays follow it as they are: they leave from where they lie, and arrive where they stay.

Ray brings the two together and gives both the same secret; the messages themselves go past it, as a call through one of its handles
costs several times what most of the models here do. Nothing that is read can run anything, whoever sent it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np

from serve.backend import Event, Overloaded, Result, Unavailable

LARGEST_BYTES = 1 << 30
"""Of what may arrive for one message; the front lets far less in."""
_ARRAY = 1
_KINDS = "biuf"


class Conversation(asyncio.Protocol):
    """One end of a connection: `send` says something, `heard` is told of what the other end says, and `ended` that there is no other end any more.

    What is said within one turn of the event loop leaves together.
    """

    def __init__(self, largest_bytes: int = LARGEST_BYTES) -> None:
        self.transport: Any = None
        self.leaving: list[bytes | memoryview] = []
        self.reader = Reader(largest_bytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. Who sends what is no message is let go."""
        try:
            for message in self.reader.messages(data):
                self.heard(*message)
        except (ValueError, TypeError, msgpack.UnpackException):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.transport = None
        self.ended()

    def send(self, *message: Any) -> None:
        """Says something; nothing where there is no other end. ValueError where it is nothing that can be said."""
        if self.transport is None:
            return
        if not self.leaving:
            asyncio.get_running_loop().call_soon(self._leave)
        self.leaving.extend(packed(message))

    def close(self) -> None:
        """Ends the connection, now."""
        if self.transport is not None:
            self.transport.abort()

    def _leave(self) -> None:
        leaving, self.leaving = self.leaving, []
        if self.transport is not None:
            self.transport.writelines(leaving)

    def heard(self, *message: Any) -> None:
        """The other end has said something."""
        raise NotImplementedError

    def ended(self) -> None:
        """The connection is no more."""
        raise NotImplementedError


def packed(message: Any) -> list[bytes | memoryview]:
    """A message as bytes, those of its arrays not copied. ValueError where something in it has no form there."""
    numbers: list[memoryview] = []
    try:
        head = msgpack.packb(message, default=lambda value: _array(value, numbers))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"a value cannot be passed on: {error}") from None
    return [head, *numbers]  # type: ignore[list-item]


def _array(value: Any, numbers: list[memoryview]) -> msgpack.ExtType:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in _KINDS:
        raise TypeError(f"{type(value).__name__} has no form")
    if value.size:
        numbers.append(_bytes_of(np.ascontiguousarray(value)))
    return msgpack.ExtType(_ARRAY, msgpack.packb((value.dtype.str, value.shape)))


def _bytes_of(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


class Reader:
    """Takes messages apart again; lists come as lists, tuples as lists. `largest_bytes`: of one message, and of its arrays together."""

    def __init__(self, largest_bytes: int) -> None:
        self.largest_bytes, self.array_bytes = largest_bytes, 0
        self.unpacker = msgpack.Unpacker(ext_hook=self._array, max_buffer_size=largest_bytes, strict_map_key=True)
        self.made: list[memoryview] = []
        """Room for the numbers of the arrays of the message that is being read."""
        self.awaited: list[memoryview] = []
        """The same of the message that is here but for them."""
        self.message: Any = None

    def messages(self, data: bytes) -> Iterator[Any]:
        """Those that are whole with this."""
        rest = memoryview(data)
        if self.awaited:
            rest = self._fill(rest)
            if self.awaited:
                return
            yield self._whole()
        self.unpacker.feed(rest)
        for message in self.unpacker:
            self.message, self.awaited, self.made = message, self.made, []
            while self.awaited and (part := self.unpacker.read_bytes(len(self.awaited[0]))):
                self._fill(memoryview(part))
            if self.awaited:
                return
            yield self._whole()

    def _whole(self) -> Any:
        message, self.message, self.array_bytes = self.message, None, 0
        return message

    def _fill(self, data: memoryview) -> memoryview:
        """Puts numbers where they are awaited; what is left."""
        while self.awaited and data:
            room = self.awaited[0]
            size = min(len(room), len(data))
            room[:size], data = data[:size], data[size:]
            self.awaited[0] = room[size:]
            if size == len(room):
                del self.awaited[0]
        return data

    def _array(self, code: int, data: bytes) -> np.ndarray:
        kind, shape = msgpack.unpackb(data)
        dtype = np.dtype(kind)
        size_bytes = math.prod(shape) * dtype.itemsize
        self.array_bytes += size_bytes
        if code != _ARRAY or dtype.kind not in _KINDS or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("no array")
        if self.array_bytes > self.largest_bytes:
            raise ValueError("too large")
        array = np.empty(shape, dtype)
        if size_bytes:
            self.made.append(_bytes_of(array))
        return array


def plain_result(result: Result) -> list[Any]:
    """A result in plain values."""
    return [result.images, result.numbers, result.per_row, result.seconds, result.batch_size]


def read_result(plain: list[Any]) -> Result:
    """The other way round."""
    images, numbers, per_row, seconds, batch_size = plain
    return Result(images=images, numbers=numbers, per_row=per_row, seconds=seconds, batch_size=batch_size)


def plain_event(event: Event) -> list[Any]:
    """News in plain values; a result goes by itself."""
    return [event.kind, event.step, event.steps, event.images]


def read_event(plain: list[Any]) -> Event:
    """The other way round."""
    kind, step, steps, images = plain
    return Event(kind=kind, step=step, steps=steps, images=images)


def plain_error(error: Exception) -> list[Any]:
    """What went wrong: its kind, its words, and the seconds after which to try again."""
    if isinstance(error, Overloaded | Unavailable):
        return [type(error).__name__, "", error.retry_after_seconds]
    return [ValueError.__name__ if isinstance(error, ValueError) else RuntimeError.__name__, str(error), 0.0]


def read_error(plain: list[Any]) -> Exception:
    """The other way round."""
    kind, words, seconds = plain
    made = {"Overloaded": lambda: Overloaded(seconds), "Unavailable": lambda: Unavailable(seconds), "ValueError": lambda: ValueError(words)}
    return made.get(kind, lambda: RuntimeError(words))()
