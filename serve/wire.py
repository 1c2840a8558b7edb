"""What the HTTP front and a replica say to each other over a socket: messages of plain values and arrays, as msgpack.

Ray brings the two together and gives both the same secret; the messages themselves go past it, as a call through one of its handles
costs several times what most of the models here do. Nothing that is read can run anything, whoever sent it.
"""

from __future__ import annotations

import asyncio
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
        self.leaving: list[bytes] = []
        self.unpacker = unpacker(largest_bytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. Who sends what is no message is let go."""
        try:
            self.unpacker.feed(data)
            for message in self.unpacker:
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
        self.leaving.append(packed(message))

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


def packed(message: Any) -> bytes:
    """A message as bytes. ValueError where something in it has no form there."""
    try:
        return msgpack.packb(message, default=_array)  # type: ignore[return-value]
    except (TypeError, OverflowError) as error:
        raise ValueError(f"a value cannot be passed on: {error}") from None


def unpacker(largest_bytes: int) -> msgpack.Unpacker:
    """Takes messages apart again; lists come as lists, tuples as lists."""
    return msgpack.Unpacker(ext_hook=_read_array, max_buffer_size=largest_bytes, strict_map_key=True)


def _array(value: Any) -> msgpack.ExtType:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in _KINDS:
        raise TypeError(f"{type(value).__name__} has no form")
    plain = np.ascontiguousarray(value)
    return msgpack.ExtType(_ARRAY, msgpack.packb((plain.dtype.str, value.shape, plain.tobytes())))


def _read_array(code: int, data: bytes) -> np.ndarray:
    kind, shape, values = msgpack.unpackb(data)
    dtype = np.dtype(kind)
    if code != _ARRAY or dtype.kind not in _KINDS:
        raise ValueError("no array")
    return np.frombuffer(bytearray(values), dtype).reshape(shape)  # of a bytearray it can be written to, as tensors want


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
