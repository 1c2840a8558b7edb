"""The models of Ray Serve's replicas as the HTTP front sees them.

Calls that wait for a replica travel together, and those that were lost with one are asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from serve.backend import Event, ModelCard, Overloaded, Result, Unavailable

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

Call = tuple[str, str, dict[str, Any], dict[str, str] | None]
"""Model, action, arguments and what PNGs say."""
_TOGETHER = 64
"""Calls that travel in one message."""
_IN_FLIGHT = 2
"""Such messages at a time: one is computed while the next one gathers."""
_RETRY_AFTER_SECONDS = 5.0
_REFRESH_SECONDS = 5.0


class RayBackend:
    """A `Backend` over the handle of the deployment whose replicas are `serve.deployment.Replica`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle
        self.cards: dict[str, ModelCard] = {}
        self.problems: dict[str, str] = {}
        self.waiting: list[tuple[Call, asyncio.Future[Result]]] = []
        self.in_flight = 0
        self.tasks: set[asyncio.Task] = set()

    async def keep(self) -> None:
        """Asks again and again what is served, for as long as it runs."""
        while True:
            with contextlib.suppress(Unavailable, Overloaded):
                await self.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Asks a replica what is served, and what is not and why."""
        status = await again(lambda: self.handle.status.remote())
        self.cards = {values["name"]: ModelCard(**values) for values in status["cards"]}
        self.problems = status["problems"]

    def models(self) -> list[ModelCard]:
        """See `Backend`."""
        return list(self.cards.values())

    def walks(self, model: str, action: str) -> bool:
        """Whether the action takes many steps, and so time."""
        return "steps" in self.cards[model].actions[action].get("properties", {})

    async def run(self, model: str, action: str, arguments: dict[str, Any], *, parameters: dict[str, str] | None = None) -> Result:
        """See `Backend`."""
        call = (model, action, arguments, parameters)
        if self.walks(model, action):
            return (await again(lambda: self.handle.run_all.remote([call])))[0]
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.waiting.append((call, future))
        self.send()
        return await future

    def send(self) -> None:
        """Sends what waits, if there is room for a message."""
        while self.waiting and self.in_flight < _IN_FLIGHT:
            batch, self.waiting = self.waiting[:_TOGETHER], self.waiting[_TOGETHER:]
            batch = [one for one in batch if not one[1].cancelled()]
            if batch:
                self.in_flight += 1
                task = asyncio.create_task(self.deliver(batch))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def deliver(self, batch: list[tuple[Call, asyncio.Future[Result]]]) -> None:
        """Runs calls in one replica; each one's result or error is its own."""
        try:
            found: list[Any] = await again(lambda: self.handle.run_all.remote([call for call, _ in batch]))
        except Exception as error:  # of the message as a whole
            found = [error] * len(batch)
        finally:
            self.in_flight -= 1
        for (_, future), one in zip(batch, found, strict=True):
            _settle(future, one)
        self.send()

    async def stream(
        self, model: str, action: str, arguments: dict[str, Any], *, partial_images: int = 0, parameters: dict[str, str] | None = None
    ) -> AsyncIterator[Event]:
        """See `Backend`; where the replica is lost, another one starts over, and only news that are new are passed on."""
        done = 0
        for attempt in (1, 2):
            events: Any = self.handle.options(stream=True).stream.remote((model, action, arguments, parameters), partial_images)
            try:
                async for event in events:
                    if event.kind == "result" or event.step > done:
                        done = event.step
                        yield event
                return
            except Exception as error:
                if not lost(error) or attempt == 2:
                    raise translated(error) from None
            finally:
                with contextlib.suppress(Exception):
                    events.cancel()


def _settle(future: asyncio.Future[Result], found: Any) -> None:
    if future.done():
        return
    if isinstance(found, BaseException):
        future.set_exception(found)
    else:
        future.set_result(found)


async def again(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What a replica answers; asked once more where it was lost, as every action is a function of its arguments alone."""
    for attempt in (1, 2):
        try:
            return _checked(await ask())
        except Exception as error:
            if not lost(error) or attempt == 2:
                raise translated(error) from None
    raise AssertionError


def _checked(found: Any) -> Any:
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], Exception):
        raise found[0]
    return found


def lost(error: Exception) -> bool:
    """Whether the replica died with the request."""
    from ray.exceptions import RayActorError, WorkerCrashedError

    return isinstance(error, RayActorError | WorkerCrashedError)


def translated(error: Exception) -> Exception:
    """An error as the front knows it."""
    from ray.exceptions import RayTaskError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    if isinstance(error, RayTaskError):
        error = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(error, BackPressureError):
        return Overloaded(_RETRY_AFTER_SECONDS)
    if lost(error) or isinstance(error, DeploymentUnavailableError):
        return Unavailable(_RETRY_AFTER_SECONDS)
    return error
