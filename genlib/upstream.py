"""The trained tasks of earlier stages inside the task of a later one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from genlib.task import Task


class Upstream(Mapping[str, "Task"]):
    """Frozen tasks by role: in eval mode and without gradients.

    It is no module, so that they are not among the modules and weights of the task that holds it: no strategy shards or synchronises them,
    each is whole on every rank and may be asked outside of a strategy's passes. Their state is part of that task's state dict.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = dict(tasks)
        for task in self._tasks.values():
            task.eval().requires_grad_(False)

    def __getitem__(self, role: str) -> Task:
        return self._tasks[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def to(self, *args: Any, **kwargs: Any) -> None:
        """Moves all of them, as `nn.Module.to` does."""
        for task in self._tasks.values():
            task.to(*args, **kwargs)


def every_upstream(task: Task) -> Iterator[Task]:
    """The upstream tasks of a task and theirs, each once."""
    seen: dict[int, Task] = {}
    waiting = list(task.upstream.values())
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen[id(one)] = one
            waiting += one.upstream.values()
    yield from seen.values()


def as_kept(task: Task, device: torch.device) -> AbstractContextManager:
    """Inside, a frozen task computes on that device in the type in which its layers are kept, see `Task.frozen_precision`."""
    if not task.kept_in_bf16:
        return nullcontext()
    # without the cache, which keeps casts of weights that have a gradient alone
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def add_state(holder: Task, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """A state dict post-hook: the state of upstream tasks under their roles, also inside each other."""
    for role, task in holder.upstream.items():
        # As variables, so that one that is here twice can be told; none has a gradient to be kept from.
        task.state_dict(destination=state, prefix=f"{prefix}{holder.upstream_prefix}{role}.", keep_vars=True)


def take_state(
    holder: Task, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any], strict: bool, missing: list[str], unexpected: list[str],
    errors: list[str],
) -> None:  # fmt: skip
    """A load-state-dict pre-hook, the inverse of `add_state`: takes entries of upstream tasks out of `state` and gives them to these."""
    for role, task in holder.upstream.items():
        before = f"{prefix}{holder.upstream_prefix}{role}."
        own = {name.removeprefix(before): state.pop(name) for name in list(state) if name.startswith(before)}
        try:
            odd = task.load_state_dict(own, strict=False)
        except RuntimeError as error:  # of another shape
            errors.append(str(error))
        else:
            missing += [before + name for name in odd.missing_keys]
            unexpected += [before + name for name in odd.unexpected_keys]
