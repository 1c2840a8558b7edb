"""The socket between the front and a replica: what is said arrives as it was, strangers are let go, and who leaves stops what it asked for."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from serve import wire
from serve.backend import Event, Overloaded, Result, Unavailable
from serve.link import Link, Lost
from serve.listener import Address, Listener
from serve.observability import begin_request, current_request
from tests.serve.models import SOON

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Models:
    """Counts what starts and ends; each action does what its name says."""

    def __init__(self) -> None:
        self.started, self.stopped = 0, 0
        self.seen: list[Any] = []

    def models(self) -> list[Any]:
        return []

    async def run(self, model: str, action: str, arguments: dict[str, Any], *, parameters: dict[str, str] | None = None) -> Result:
        self.started += 1
        self.seen.append((model, arguments, parameters, current_request()))
        if action == "wait":
            try:
                await asyncio.sleep(SOON)
            finally:
                self.stopped += 1
        if action in FAILURES:
            raise FAILURES[action]
        return Result(images=[b"\x00\xff"], numbers=arguments.get("x"), per_row=3, seconds={"model": 0.5}, batch_size=7)

    async def stream(
        self, model: str, action: str, arguments: dict[str, Any], *, partial_images: int = 0, parameters: dict[str, str] | None = None
    ) -> AsyncIterator[Event]:
        for step in range(1, 4):
            yield Event(kind="partial" if partial_images else "progress", step=step, steps=3, images=[bytes([step])] * partial_images)
        yield Event(kind="result", step=3, steps=3, result=await self.run(model, action, arguments, parameters=parameters))


FAILURES = {"invalid": ValueError("seed is odd"), "full": Overloaded(3.0), "away": Unavailable(2.0), "broken": KeyError("secret path")}


@asynccontextmanager
async def talking(room: int = 8) -> AsyncIterator[tuple[Models, Link, Address]]:
    models = Models()
    listener = Listener(models, room)
    address = await listener.open("127.0.0.1")
    link = await Link.open(address)
    try:
        yield models, link, address
    finally:
        link.close()
        await listener.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
    | arrays(st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


def flat(message: Any) -> bytes:
    """A message as it goes over the socket."""
    return b"".join(wire.packed(message))


@given(st.lists(PLAIN, max_size=3), st.integers(1, 50))
def test_messages_arrive_whole_whatever_the_pieces(values: list[Any], size: int) -> None:
    reader, sent = wire.Reader(1 << 20), b"".join(flat([value]) for value in values)
    arrived = [message for at in range(0, len(sent), size) for message in reader.messages(sent[at : at + size])]
    np.testing.assert_equal(arrived, [[value] for value in values])


def test_an_array_is_nowhere_twice() -> None:
    array = np.arange(1 << 20, dtype=np.float32)
    tracemalloc.start()
    reader, parts = wire.Reader(1 << 30), wire.packed([array])
    pieces = (part[at : at + 65536] for part in map(memoryview, parts) for at in range(0, len(part), 65536))
    (((arrived,),),) = [found for piece in pieces if (found := list(reader.messages(piece)))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(arrived, array)
    assert arrived.flags.writeable
    assert peak < 1.3 * array.nbytes  # the one that arrives


@given(PLAIN)
def test_any_plain_value_arrives_as_it_was(value: Any) -> None:
    ((arrived,),) = list(wire.Reader(1 << 20).messages(flat([value])))
    np.testing.assert_equal(arrived, value)
    assert type(arrived) is type(value)


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, np.array(["a"], object), np.array([None])])
def test_what_has_no_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="cannot be passed on"):
        wire.packed([value])


async def test_a_call_and_its_news_arrive_with_the_context_of_the_request() -> None:
    async with talking() as (models, link, _):
        asked = begin_request({})
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        result = await link.run(("m", "act", {"x": x, "seed": [2**63]}, {"k": "v"}))
        assert (result.images, result.per_row, result.seconds, result.batch_size) == ([b"\x00\xff"], 3, {"model": 0.5}, 7)
        np.testing.assert_array_equal(result.numbers, x)
        model, arguments, parameters, exchange = models.seen[0]
        assert (model, arguments["seed"], parameters) == ("m", [2**63], {"k": "v"})
        assert arguments["x"].flags.writeable
        assert exchange.ids() == asked.ids()
        assert exchange.traceparent[36:52] != asked.traceparent[36:52]  # a span of its own
        news = [event async for event in link.stream(("m", "act", {}, None), 2)]
        assert [(event.kind, event.step, event.images) for event in news[:3]] == [("partial", step, [bytes([step])] * 2) for step in (1, 2, 3)]
        assert news[3].result.images == [b"\x00\xff"]
        assert link.load == 0


async def test_many_calls_at_a_time_get_their_own_answers() -> None:
    async with talking(room=100) as (_, link, _):
        found = await asyncio.gather(*(link.run(("m", "act", {"x": np.array([number])}, None)) for number in range(100)))
        assert [result.numbers.tolist() for result in found] == [[number] for number in range(100)]


async def test_failures_arrive_as_they_were_raised() -> None:
    async with talking() as (_, link, _):
        with pytest.raises(ValueError, match="seed is odd"):
            await link.run(("m", "invalid", {}, None))
        with pytest.raises(Overloaded) as full:
            await link.run(("m", "full", {}, None))
        with pytest.raises(Unavailable) as away:
            [event async for event in link.stream(("m", "away", {}, None), 0)]
        with pytest.raises(RuntimeError):
            await link.run(("m", "broken", {}, None))
        assert (full.value.retry_after_seconds, away.value.retry_after_seconds) == (3.0, 2.0)
        with pytest.raises(ValueError, match="cannot be passed on"):
            await link.run(("m", "act", {"x": {1}}, None))
        assert link.load == 0
        assert (await link.run(("m", "act", {}, None))).per_row == 3


async def test_who_gives_up_or_leaves_stops_the_work() -> None:
    async with talking() as (models, link, _):
        work = asyncio.create_task(link.run(("m", "wait", {}, None)))
        await until(lambda: models.started == 1)
        work.cancel()
        await until(lambda: models.stopped == 1)
        stream = link.stream(("m", "wait", {}, None), 0)
        assert (await anext(stream)).step == 1
        reading = asyncio.create_task(anext(stream))
        await until(lambda: models.started == 2)
        reading.cancel()
        await until(lambda: models.stopped == 2)
        waits = asyncio.gather(*(link.run(("m", "wait", {}, None)) for _ in range(3)), return_exceptions=True)
        await until(lambda: models.started == 5)
        link.close()
        await until(lambda: models.stopped == 5)
        assert [type(error) for error in await waits] == [Lost] * 3
        with pytest.raises(Lost):
            await link.run(("m", "act", {}, None))


async def test_a_full_replica_refuses_and_one_that_closes_ends_its_calls_first() -> None:
    async with talking(room=2) as (models, link, _):
        works = [asyncio.create_task(link.run(("m", "wait", {}, None))) for _ in range(2)]
        await until(lambda: models.started == 2)
        with pytest.raises(Overloaded):
            await link.run(("m", "act", {}, None))
        for work in works:
            work.cancel()
    models = Models()
    listener = Listener(models)
    link = await Link.open(address := await listener.open("127.0.0.1"))
    work = asyncio.create_task(link.run(("m", "act", {}, None)))
    await until(lambda: models.started == 1)
    await listener.close(SOON)
    assert (await work).per_row == 3
    with pytest.raises(Lost):
        await Link.open(address)


async def said(address: Address, data: bytes) -> bytes:
    """What comes back before the connection ends."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(data)
    return await asyncio.wait_for(reader.read(), SOON)


async def test_strangers_are_let_go_and_nothing_of_theirs_runs() -> None:
    async with talking() as (models, link, address):
        call = flat((0, "run", {}, ("m", "act", {}, None), 0))
        for first in (b"", flat(("wrong",)), flat((address.secret[:-1],)), flat((None,)), flat(()), flat(7), wire.packed((np.zeros(1 << 20),))[0]):
            assert await said(address, first + call) == b""
        assert await said(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert await said(address, msgpack.packb(["x" * 4096])) == b""
        assert models.started == 0
        assert (await link.run(("m", "act", {}, None))).per_row == 3


async def test_the_wrong_secret_and_a_closed_port_are_told_apart_from_a_replica() -> None:
    async with talking() as (_, _, address):
        with pytest.raises(Lost):
            await Link.open(Address(address.host, address.port, "wrong"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Lost):
            await Link.open(Address("127.0.0.1", taken.getsockname()[1], "x"))


@given(st.binary(max_size=200))
def test_no_bytes_make_more_than_an_error(data: bytes) -> None:
    with suppress(ValueError, TypeError, msgpack.UnpackException):
        list(wire.Reader(1 << 16).messages(data))


@pytest.mark.parametrize(
    "array", [("|O", (1,)), ("S3", (1,)), ("V8", (1,)), ("nonsense", (1,)), ("f4,f4", (1,)), ("<f4", (-1,)), ("<f4", (1 << 40,)), ("<f4", (1.5,))]
)
def test_arrays_of_other_kinds_are_refused(array: tuple[str, tuple[Any, ...]]) -> None:
    with pytest.raises((ValueError, TypeError)):
        list(wire.Reader(1 << 16).messages(msgpack.packb(msgpack.ExtType(1, msgpack.packb(array)))))
