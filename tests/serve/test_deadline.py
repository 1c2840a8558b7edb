"""A deadline ends the block that it is for, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from serve.deadline import Deadline
from tests.serve.models import run


def test_a_block_that_takes_too_long_ends_with_a_timeout() -> None:
    async def late(loop: asyncio.AbstractEventLoop) -> None:
        with Deadline(loop.time() + 60, loop) as deadline:
            deadline.move(loop.time() + 0.05)
            await asyncio.sleep(30)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError):
            await late(loop)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        with Deadline(loop.time() + 0.05, loop):
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        return loop.time() - began

    assert run(main()) < 10


def test_who_is_cancelled_is_cancelled() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        with Deadline(loop.time() + 60, loop):
            await asyncio.sleep(30)

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
