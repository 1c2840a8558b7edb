"""What the front makes of replicas that come, go, are busy or are lost: real listeners, and a stand-in for Ray's handle that knows of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import DeploymentUnavailableError

import serve.ray_backend as module
from genlib.ports import Sizes
from serve.backend import Event, ModelCard, Overloaded, Result, Unavailable
from serve.listener import Listener
from serve.ray_backend import RayBackend, Status
from tests.serve.models import SOON

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


CARD = ModelCard(
    name="m", recipe="r", step=1, sha256="", sizes=Sizes(side=8, channels=1, max_steps=10), max_batch=8, created=0, actions={}
)  # fmt: skip


@dataclass
class Replica:
    """A process's worth of one: its calls wait until `go` is set."""

    name: str
    loaded: tuple[str, ...] = ("m",)
    step: int = 1
    room: int = 256
    asked: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> Replica:
        self.listener = Listener(self, self.room)  # type: ignore[arg-type]
        self.address = await self.listener.open("127.0.0.1")
        return self

    async def run(self, model: str, action: str, arguments: dict[str, Any], *, parameters: dict[str, str] | None = None) -> Result:
        self.asked += 1
        await self.go.wait()
        if action == "wrong":
            raise ValueError("the seed is odd")
        return Result(numbers=np.array([arguments["seed"]]), per_row=int(self.name))

    async def stream(
        self, model: str, action: str, arguments: dict[str, Any], *, partial_images: int = 0, parameters: dict[str, str] | None = None
    ) -> AsyncIterator[Event]:
        for step in range(1, 6):
            if step == 4:
                await self.go.wait()
            yield Event(kind="progress", step=step, steps=5)
        yield Event(kind="result", step=5, steps=5, result=Result(per_row=int(self.name)))

    async def die(self) -> None:
        """As with a kill."""
        await self.listener.close()

    def status(self) -> Status:
        return Status(replica=self.name, address=self.address, cards=[replace(CARD, step=self.step)], problems={}, loaded=self.loaded)


class Handle:
    """Knows the replicas, as Ray's does."""

    def __init__(self, *replicas: Replica) -> None:
        self.replicas: list[Any] = list(replicas)

    def broadcast(self, method: str) -> Any:
        async def results_async(*, return_exceptions: bool) -> list[Any]:
            assert (method, return_exceptions) == ("status", True)
            if not self.replicas:
                raise DeploymentUnavailableError(None)
            return [one.status() if isinstance(one, Replica) else one for one in self.replicas]

        return SimpleNamespace(results_async=results_async)


async def fleet(*replicas: Replica, ready: bool = True) -> tuple[RayBackend, Handle]:
    handle = Handle(*[await one.open() for one in replicas])
    backend = RayBackend(handle)  # type: ignore[arg-type]
    await backend.refresh()
    for one in replicas:
        if ready:
            one.go.set()
    return backend, handle


async def until(condition: Any) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


async def test_calls_go_to_the_least_busy_replica() -> None:
    one, two = Replica("1"), Replica("2")
    backend, _ = await fleet(one, two, ready=False)
    works = [asyncio.create_task(backend.run("m", "act", {"seed": seed})) for seed in range(10)]
    await until(lambda: one.asked + two.asked == 10)
    assert (one.asked, two.asked) == (5, 5)
    one.go.set(), two.go.set()
    assert [result.numbers[0] for result in await asyncio.gather(*works)] == list(range(10))
    with pytest.raises(ValueError, match="the seed is odd"):
        await backend.run("m", "wrong", {"seed": 1})


async def test_a_replica_that_holds_the_model_is_asked_until_it_is_far_busier() -> None:
    other, holder = Replica("1", loaded=("n",)), Replica("2", loaded=("m", "n"))
    backend, _ = await fleet(other, holder, ready=False)
    works = [asyncio.create_task(backend.run("m", "act", {"seed": seed})) for seed in range(12)]
    await until(lambda: other.asked + holder.asked == 12)
    assert other.asked <= 2
    assert holder.asked >= 9
    other.go.set(), holder.go.set()
    await asyncio.gather(*works)


async def test_calls_that_are_lost_with_a_replica_are_asked_again_of_another() -> None:
    one, two = Replica("1"), Replica("2")
    backend, handle = await fleet(one, two, ready=False)
    works = [asyncio.create_task(backend.run("m", "act", {"seed": seed})) for seed in range(8)]
    await until(lambda: one.asked == two.asked == 4)
    handle.replicas[0] = ActorDiedError()
    await one.die()
    two.go.set()
    results = await asyncio.gather(*works)
    assert [result.numbers[0] for result in results] == list(range(8))
    assert {result.per_row for result in results} == {2}


async def test_news_go_on_where_a_lost_replica_left_off() -> None:
    one, two = Replica("1"), Replica("2", loaded=())
    backend, _ = await fleet(one, two, ready=False)
    news = []
    async for event in backend.stream("m", "act", {"seed": 0}):
        news.append((event.kind, event.step))
        if event.step == 3:
            two.go.set()
            await one.die()
    assert [step for kind, step in news if kind == "progress"] == [1, 2, 3, 4, 5]
    assert [kind for kind, _ in news].count("result") == 1


async def test_calls_wait_for_a_replica_to_come_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, handle = await fleet()
    keeping = asyncio.create_task(backend.keep())
    work = asyncio.create_task(backend.run("m", "act", {"seed": 3}))
    await asyncio.sleep(0.5)
    assert not work.done()
    one = await Replica("1").open()
    one.go.set()
    handle.replicas.append(one)
    assert (await asyncio.wait_for(work, SOON)).numbers == [3]
    handle.replicas.clear()
    await one.die()
    await until(lambda: not any(link.alive for link in backend.links.values()))
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.3)
    with pytest.raises(Unavailable):
        await backend.run("m", "act", {"seed": 3})
    keeping.cancel()


async def test_a_replica_that_is_let_go_ends_its_calls_and_gets_no_more() -> None:
    one, two = Replica("1"), Replica("2")
    backend, handle = await fleet(one, two, ready=False)
    works = [asyncio.create_task(backend.run("m", "act", {"seed": seed})) for seed in range(4)]
    await until(lambda: one.asked == two.asked == 2)
    handle.replicas = [two]
    await backend.refresh()
    works += [asyncio.create_task(backend.run("m", "act", {"seed": seed})) for seed in range(4, 8)]
    await until(lambda: two.asked == 6)
    one.go.set(), two.go.set()
    assert [result.per_row for result in await asyncio.gather(*works)].count(1) == 2
    await backend.refresh()
    assert list(backend.links) == ["2"]


async def test_a_full_replica_says_so_and_the_newest_step_is_what_is_told() -> None:
    one, two = Replica("1", room=1), Replica("2", step=9)
    backend, handle = await fleet(one, two, ready=False)
    assert [card.step for card in backend.models()] == [9]
    handle.replicas = [one]
    await backend.refresh()
    work = asyncio.create_task(backend.run("m", "act", {"seed": 0}))
    await until(lambda: one.asked == 1)
    with pytest.raises(Overloaded):
        await backend.run("m", "act", {"seed": 1})
    one.go.set()
    await work
