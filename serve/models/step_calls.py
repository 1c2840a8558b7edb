"""Making the calls that a task names as those of its steps go through a merger, whoever in it makes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from genlib.task import Task
from serve.models.step_batcher import StepBatcher


def divert(task: Task, merger: StepBatcher, compute: Callable[..., Any]) -> bool:
    """Merges the task's step calls with those of other requests, made by compute(method, ...); whether it has any."""
    calls = list(task.step_calls())
    for owner, method in calls:
        vars(owner)[method] = partial(merger.call, partial(compute, getattr(owner, method)))
    return bool(calls)


def restore(task: Task) -> None:
    """Undoes `divert`: what is diverted is part of a cycle, whose memory would go back only when Python looks for such."""
    for owner, method in task.step_calls():
        vars(owner).pop(method, None)
