"""The models of Ray Serve's replicas as the HTTP front sees them.

Ray Serve says which replicas there are; calls go to them over sockets of our own (`serve.wire`), and those that were lost with a replica
are asked again: every action is a function of its arguments alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve.backend import Event, ModelCard, Result, Unavailable
from serve.link import Link, Lost
from serve.listener import Address

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

LOG = logging.getLogger("serve.replicas")
_LOOK_SECONDS = 2.0
"""Between looks for replicas."""
_LOOK_SOON_SECONDS = 0.2
"""The same, while calls wait for one."""
_STATUS_SECONDS = 30.0
_WAIT_SECONDS = 60.0
"""A call waits so long for a replica, as while a lost one is replaced."""
_RETRY_AFTER_SECONDS = 5.0
_ATTEMPTS = 3
_SPILL = 8
"""Calls by which a replica that has the model loaded may be ahead of the others before one of them loads it too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What a replica says of itself."""

    replica: str
    address: Address
    cards: list[ModelCard]
    problems: dict[str, str]
    loaded: tuple[str, ...]
    """Models in its memory."""


class RayBackend:
    """A `Backend` over the replicas, each a `serve.deployment.Replica`, of the deployment with this handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle
        self.known: dict[str, Status] = {}
        self.links: dict[str, Link] = {}
        self.cards: dict[str, ModelCard] = {}
        self.problems: dict[str, str] = {}
        self.wanted = asyncio.Event()
        """A call waits for a replica."""
        self.looked = asyncio.Event()
        """Set anew after each look."""

    async def keep(self) -> None:
        """Looks for replicas again and again, for as long as it runs."""
        while True:
            try:
                await self.refresh()
            except Exception as error:  # Ray is away for a moment: what is known still holds
                LOG.warning("no news of the replicas", extra={"values": {"error": type(error).__name__}})
            waits = _LOOK_SOON_SECONDS if self.wanted.is_set() else _LOOK_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wanted.wait(), waits)
            if self.wanted.is_set():
                await asyncio.sleep(_LOOK_SOON_SECONDS)

    async def refresh(self) -> None:
        """Asks every replica what it serves, and what it does not and why, and connects to those that are new."""
        statuses = await asyncio.wait_for(self.statuses(), _STATUS_SECONDS)
        self.known = {status.replica: status for status in statuses}
        for name, link in list(self.links.items()):
            if not link.alive or (name not in self.known and not link.load):
                link.close()
                del self.links[name]
        for status in statuses:
            if status.replica not in self.links:
                with contextlib.suppress(Lost):
                    self.links[status.replica] = await Link.open(status.address)
        newest = sorted((card for status in statuses for card in status.cards), key=lambda card: card.step)
        self.cards = {card.name: card for card in newest} or self.cards
        self.problems = {name: why for status in statuses for name, why in status.problems.items()}
        self.wanted.clear()
        self.looked.set()
        self.looked = asyncio.Event()

    async def statuses(self) -> list[Status]:
        """Of the replicas that answer."""
        from ray.serve.exceptions import DeploymentUnavailableError

        try:
            found = await self.handle.broadcast("status").results_async(return_exceptions=True)
        except DeploymentUnavailableError:
            return []
        return [one for one in found if isinstance(one, Status)]

    def models(self) -> list[ModelCard]:
        """See `Backend`."""
        return list(self.cards.values())

    async def run(self, model: str, action: str, arguments: dict[str, Any], *, parameters: dict[str, str] | None = None) -> Result:
        """See `Backend`."""
        call = (model, action, arguments, parameters)
        for _ in range(_ATTEMPTS):
            link = self.chosen(model) or await self.awaited(model)
            with contextlib.suppress(Lost):
                return await link.run(call)
        raise Unavailable(_RETRY_AFTER_SECONDS)

    async def stream(
        self, model: str, action: str, arguments: dict[str, Any], *, partial_images: int = 0, parameters: dict[str, str] | None = None
    ) -> AsyncGenerator[Event, None]:
        """See `Backend`; where the replica is lost, another one starts over, and only news that are new are passed on."""
        done, call = 0, (model, action, arguments, parameters)
        for _ in range(_ATTEMPTS):
            link = self.chosen(model) or await self.awaited(model)
            with contextlib.suppress(Lost):
                async with aclosing(link.stream(call, partial_images)) as events:
                    async for event in events:
                        if event.kind == "result" or event.step > done:
                            done = event.step
                            yield event
                return
        raise Unavailable(_RETRY_AFTER_SECONDS)

    def chosen(self, model: str) -> Link | None:
        """The least busy replica, of those that have the model loaded unless they are far busier than the others; None where there is none."""
        alive = {name: link for name, link in self.links.items() if link.alive and name in self.known}
        if not alive:
            return None
        least = min(alive.values(), key=lambda link: link.load)
        holders = [link for name, link in alive.items() if model in self.known[name].loaded]
        best = min(holders, key=lambda link: link.load, default=least)
        return best if best.load <= least.load + _SPILL else least

    async def awaited(self, model: str) -> Link:
        """A replica as soon as there is one. Unavailable where it takes too long."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                while (link := self.chosen(model)) is None:
                    self.wanted.set()
                    await self.looked.wait()
        except TimeoutError:
            raise Unavailable(_RETRY_AFTER_SECONDS) from None
        return link

    def close(self) -> None:
        """Lets all replicas go."""
        for link in self.links.values():
            link.close()
