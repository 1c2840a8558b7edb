"""Work beside the event loop: few at a time, and none for those who have left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref

from serve.routes.beside import beside, if_large
from tests.serve.models import run, until


class Crowd:
    """Counts what runs at once."""

    def __init__(self) -> None:
        self.inside, self.most, self.begun, self.go = 0, 0, 0, threading.Event()

    def work(self) -> int:
        self.inside, self.begun = self.inside + 1, self.begun + 1
        self.most = max(self.most, self.inside)
        self.go.wait(10)
        self.inside -= 1
        return self.begun


def test_few_run_at_once_and_who_leaves_while_waiting_is_never_served() -> None:
    async def asked() -> Crowd:
        crowd = Crowd()
        waiting = [asyncio.ensure_future(beside(crowd.work)) for _ in range(20)]
        await until(lambda: crowd.inside == 2)
        for one in waiting:
            one.cancel()
        later = [asyncio.ensure_future(beside(crowd.work)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert crowd.begun == 2  # what was begun still has its places, though nobody waits for it
        crowd.go.set()
        await asyncio.gather(*later)
        return crowd

    crowd = run(asked())
    assert (crowd.most, crowd.begun) == (2, 5)


def test_what_was_refused_is_let_go_at_once() -> None:
    class Body(bytearray):
        """Can be watched."""

    def refused(body: Body) -> None:
        raise ValueError(len(body))

    async def asked() -> list[weakref.ref]:
        watched = []
        for _ in range(3):
            body = Body(1000)
            watched.append(weakref.ref(body))
            with contextlib.suppress(ValueError):
                await beside(refused, body)
            del body
            await asyncio.sleep(0.05)
        return watched

    gc.disable()
    try:
        assert [one() for one in run(asked())] == [None] * 3
    finally:
        gc.enable()


def test_little_is_done_at_once_and_much_in_a_thread() -> None:
    async def asked() -> tuple[bool, bool]:
        here = threading.get_ident()
        return await if_large(10, threading.get_ident) == here, await if_large(1 << 20, threading.get_ident) == here

    assert run(asked()) == (True, False)
