"""Seeing what goes on inside an action: whoever calls it looks at each step of the loops in it, without being handed through.

    with watching(lambda step, steps, x, x0: print(f"{step + 1} of {steps}")):
        task.generate(seed=[0])

An observer may raise, which ends the action. Where nobody watches, a step costs one look at a context variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Observer = Callable[[int, int, Tensor, Tensor | None], None]
"""(the step's number from 0, steps in all, x (B, ...) after it, the estimate of x_0 (B, ...) it used where there is one)."""

_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def watching(observer: Observer | None) -> Iterator[None]:
    """What runs inside shows its steps to the observer; to nobody if None. Of this thread alone."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@contextmanager
def part(done: int, total: int) -> Iterator[None]:
    """The loops inside are part of a longer one of `total` steps, of which so many are done before."""
    observer = _observer.get()
    if observer is None:
        yield
        return
    with watching(lambda step, _, x, x0: observer(done + step, total, x, x0)):
        yield


def after_step(step: int, total: int, x: Tensor, x0: Tensor | None = None) -> None:
    """A loop tells of each step once it is done; see `Observer`."""
    if observer := _observer.get():
        observer(step, total, x, x0)
