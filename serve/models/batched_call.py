"""Calls of a function by requests, and how several that are alike run as one.

Two calls are alike where they call the same with the same values but for their rows: tensors, and lists, with an entry for each row.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from genlib.functional.step_callbacks import StepCallback, step_callback


class Cancelled(Exception):
    """Nobody waits for the request any more."""


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A request on its way through."""

    observer: StepCallback | None = None
    """Sees the steps of its calls, where they are loops."""
    cancelled: bool = False
    """Set by whoever asked: its next call raises."""
    seconds: dict[str, float] = field(default_factory=lambda: {"queue": 0.0, "batch": 0.0, "model": 0.0, "encode": 0.0})
    """Time before its first turn; waiting for others; working; making files of pictures."""
    batch_size: int = 0
    """Rows of the largest call that it was part of."""
    turn: SimpleQueue[None] = field(default_factory=SimpleQueue)
    """Gets an entry when it may go on."""

    def check(self) -> None:
        """Raises Cancelled where it is."""
        if self.cancelled:
            raise Cancelled


@dataclass(eq=False, slots=True)
class BatchedCall:
    """One call of a function by a request."""

    ticket: PendingRequest
    function: Callable[..., Any]
    arguments: Mapping[str | int, Any]
    """By keyword or place."""
    names: Sequence[str | int]
    """Which arguments have rows; none for a call that must run by itself."""
    done: Callable[[BatchedCall], None]
    """Told once there is a result or an error."""
    then: Callable[[Any], Any] | None = None
    """Makes the result of its rows of what the function gave, in the thread that computes."""
    key: Hashable = None
    rows: int = 0
    since: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    """It took to run."""
    result: Any = None
    error: BaseException | None = None

    def __post_init__(self) -> None:
        counts = {len(self.arguments[name]) for name in self.names}
        if len(counts) != 1 or 0 in counts:  # what is called says what is wrong
            self.names, self.key = (), object()
            return
        (self.rows,) = counts
        self.key = self.function, tuple((name, signature(value, name in self.names)) for name, value in self.arguments.items())


def signature(value: Any, has_rows: bool) -> Hashable:
    """What must be equal of an argument for two calls to be alike."""
    if not isinstance(value, Tensor):
        return list if has_rows else repr(value)
    if has_rows:
        return value.dtype, value.shape[1:], value.device
    # by content, as each request brings tensors of its own
    return value.dtype, value.shape, value.device, hashlib.sha256(value.detach().flatten().view(torch.uint8).cpu().numpy().tobytes()).digest()


def run(group: Sequence[BatchedCall], max_rows: int) -> None:
    """Gives each of some like calls its result or error. One's error is not the others': then each runs by itself."""
    began, rows = time.perf_counter(), sum(call.rows for call in group)
    try:
        results = together(group, max_rows)
    except BaseException as error:
        if len(group) > 1:
            for call in group:
                run([call], max_rows)
            return
        results, group[0].error = [None], error
    seconds = time.perf_counter() - began
    for call, result in zip(group, results, strict=True):
        call.seconds = seconds
        call.ticket.batch_size = max(call.ticket.batch_size, min(max_rows, rows), 1)
        if call.error is None:
            finish(call, result)


def finish(call: BatchedCall, result: Any) -> None:
    """Gives a call its result. An error in making it is its own."""
    try:
        call.result = result if call.then is None else call.then(result)
    except BaseException as error:
        call.error = error


@torch.no_grad()
def together(group: Sequence[BatchedCall], max_rows: int) -> list[Any]:
    """The results of like calls from one call, or from several of at most `max_rows` rows where a single one has more."""
    first, rows = group[0], sum(call.rows for call in group)
    with step_callback(shared_observer(group)):
        if not first.names:
            return [invoked(first, first.arguments)]
        whole = {name: joined([call.arguments[name] for call in group]) for name in first.names}
        parts = []
        for start in range(0, rows, max_rows):  # no comprehension, whose closure would stay with the traceback of an error, and hold the call
            parts.append(invoked(first, {**first.arguments, **{name: value[start : start + max_rows] for name, value in whole.items()}}))
    result = parts[0] if len(parts) == 1 else joined(parts)
    if len(group) == 1:
        return [result]
    ends = torch.tensor([call.rows for call in group]).cumsum(0).tolist()
    return [cut(result, end - call.rows, end, rows) for call, end in zip(group, ends, strict=True)]


def invoked(call: BatchedCall, arguments: Mapping[str | int, Any]) -> Any:
    """What the call's function gives for these arguments."""
    args = [arguments[place] for place in range(sum(isinstance(name, int) for name in arguments))]
    return call.function(*args, **{name: value for name, value in arguments.items() if isinstance(name, str)})


def joined(values: Sequence[Any]) -> Any:
    """Rows of several values, one after the other: of tensors, lists of rows, and tuples and dictionaries of such."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, dict):
        return {name: joined([value[name] for value in values]) for name in first}
    if isinstance(first, tuple):
        return tuple(map(joined, zip(*values, strict=True)))
    return [entry for value in values for entry in value]


def cut(value: Any, start: int, end: int, rows: int) -> Any:
    """Some rows of a result of so many. TypeError where it has others."""
    if isinstance(value, dict):
        return {name: cut(entry, start, end, rows) for name, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(cut(entry, start, end, rows) for entry in value)
    if not isinstance(value, Tensor | list) or len(value) != rows:
        raise TypeError(f"what {rows} rows gave has not so many, so it cannot be divided")
    return value[start:end]


def shared_observer(group: Sequence[BatchedCall]) -> StepCallback | None:
    """Tells each request of the steps of a call they share; ends the call when none waits for it any more."""
    tickets = [call.ticket for call in group]

    def observer(step: int, steps: int, x: Tensor, x0: Tensor | None) -> None:
        if all(ticket.cancelled for ticket in tickets):
            raise Cancelled
        for ticket in tickets:
            if ticket.observer and not ticket.cancelled:
                ticket.observer(step, steps, x, None)

    return observer
