"""A callback that every loop inside an action calls after each step, set from outside of the action.

    with step_callback(lambda step, steps, x, x0: print(f"{step + 1} of {steps}")):
        task.generate(seed=[0])

A callback may raise, which ends the action. Where none is set, a step costs one look at a context variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

StepCallback = Callable[[int, int, Tensor, Tensor | None], None]
"""(the step's number from 0, steps in all, x (B, ...) after it, the estimate of x_0 (B, ...) it used where there is one)."""

_current: ContextVar[StepCallback | None] = ContextVar("step_callback", default=None)


@contextmanager
def step_callback(callback: StepCallback | None) -> Iterator[None]:
    """Sets the callback of this thread's loops inside the block; None is none."""
    token = _current.set(callback)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def part(done: int, total: int) -> Iterator[None]:
    """Counts the loops inside the block as part of a longer one of `total` steps, of which `done` came before."""
    callback = _current.get()
    if callback is None:
        yield
        return
    with step_callback(lambda step, _, x, x0: callback(done + step, total, x, x0)):
        yield


def after_step(step: int, total: int, x: Tensor, x0: Tensor | None = None) -> None:
    """Calls the callback, if one is set; for loops, after each step. Arguments are those of `StepCallback`."""
    if callback := _current.get():
        callback(step, total, x, x0)
