"""What the front makes of replicas that are busy, that refuse, or that are lost: a stand-in takes the place of Ray's handle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from serve.backend import Event, ModelCard, Overloaded, Result, Unavailable
from serve.ray_backend import RayBackend

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


CARD = ModelCard(
    name="m", recipe="r", step=1, sha256="", docs={}, image_size=8, channels=1, multiple=0, classes=(), max_batch=8, max_steps=10, created=0,
    actions={"embed": {"properties": {"image": {}}}, "generate": {"properties": {"seed": {}, "steps": {}}}},
)  # fmt: skip


class Handle:
    """Answers as a replica does that was lost `losses` times before; remembers the messages."""

    def __init__(self, losses: int = 0, error: Exception | None = None) -> None:
        self.losses, self.error, self.messages = losses, error, []
        self.run_all, self.stream = SimpleNamespace(remote=self.answer), SimpleNamespace(remote=self.news)

    def options(self, **_: Any) -> Handle:
        return self

    async def answer(self, calls: list[Any]) -> list[Any]:
        self.messages.append(calls)
        await asyncio.sleep(0.01)
        if self.losses:
            self.losses -= 1
            raise ActorDiedError()
        if self.error:
            raise self.error
        return [
            ValueError("the seed is odd") if arguments["seed"] % 2 else Result(numbers=np.array([arguments["seed"]]))
            for _, _, arguments, _ in calls
        ]  # fmt: skip

    def news(self, call: Any, partial_images: int) -> AsyncIterator[Event]:
        async def events() -> AsyncIterator[Event]:
            self.messages.append(call)
            for step in range(1, 6):
                if self.losses and step == 4:
                    self.losses -= 1
                    raise ActorDiedError()
                yield Event(kind="progress", step=step, steps=5)
            yield Event(kind="result", step=5, steps=5, result=Result(numbers=np.array([7])))

        return events()


def backend(handle: Handle) -> RayBackend:
    made = RayBackend(handle)  # type: ignore[arg-type]
    made.cards = {"m": CARD}
    return made


async def test_requests_that_wait_travel_together_and_fail_apart() -> None:
    handle = Handle()
    one = backend(handle)
    found = await asyncio.gather(*(one.run("m", "embed", {"seed": seed}) for seed in range(100)), return_exceptions=True)
    assert [None if isinstance(each, Exception) else each.numbers[0] for each in found] == [None if seed % 2 else seed for seed in range(100)]
    assert {str(each) for each in found if isinstance(each, Exception)} == {"the seed is odd"}
    assert len(handle.messages) <= 5
    assert sum(map(len, handle.messages)) == 100


async def test_a_lone_request_waits_for_nobody_and_one_of_steps_travels_alone() -> None:
    handle = Handle()
    one = backend(handle)
    await one.run("m", "embed", {"seed": 0})
    await asyncio.gather(*(one.run("m", "generate", {"seed": 2 * seed, "steps": 5}) for seed in range(3)))
    assert list(map(len, handle.messages)) == [1, 1, 1, 1]


@pytest.mark.parametrize("action", ["embed", "generate"])
async def test_a_request_that_is_lost_with_a_replica_is_asked_again_once(action: str) -> None:
    assert (await backend(Handle(losses=1)).run("m", action, {"seed": 4})).numbers == [4]
    with pytest.raises(Unavailable):
        await backend(Handle(losses=2)).run("m", action, {"seed": 4})


async def test_full_queues_and_errors_are_told_as_they_are() -> None:
    with pytest.raises(Overloaded):
        await backend(Handle(error=BackPressureError(num_queued_requests=9, max_queued_requests=9))).run("m", "embed", {"seed": 0})
    with pytest.raises(ValueError, match="the seed is odd"):
        await backend(Handle()).run("m", "generate", {"seed": 1})


async def test_news_go_on_where_a_lost_replica_left_off() -> None:
    handle = Handle(losses=1)
    steps = [(event.kind, event.step) async for event in backend(handle).stream("m", "generate", {"seed": 0})]
    assert steps == [("progress", 1), ("progress", 2), ("progress", 3), ("progress", 4), ("progress", 5), ("result", 5)]
    assert len(handle.messages) == 2
