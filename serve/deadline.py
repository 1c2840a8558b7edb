"""A time by which a block of a task must be done."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Deadline:
    """As `asyncio.timeout_at`, in a fifth of its time: a request has two of them, which most requests never notice.

    TimeoutError where the block has not ended at `when`, in seconds of the event loop's clock.
    """

    __slots__ = ("_cancelling", "_expired", "_loop", "_task", "_timer")

    def __init__(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._expired = loop, False
        self._timer = loop.call_at(when, self._expire)

    def __enter__(self) -> Self:
        self._task = asyncio.current_task(self._loop)
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._timer.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def move(self, when: float) -> None:
        """Puts it off, or nearer."""
        self._timer.cancel()
        self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
