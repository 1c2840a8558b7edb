"""Calls that can run together do, without anyone waiting for a time to pass.

Requests run in threads of their own, but take turns: one works at a time, until it calls something that is merged or ends. Once none can
go on without such a call, the oldest call runs, together with all that are like it, on the one thread that computes; then those that got
what they asked for have their turns. So a lone request never waits, requests join and leave between any two calls, and as many calls
come together as there are requests. Who keeps its turn for long, as when it encodes a picture, loses it: the others go on beside it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any

from torch import Tensor

from serve.models.batched_call import BatchedCall, Cancelled, PendingRequest, run

_ticket: ContextVar[PendingRequest | None] = ContextVar("ticket", default=None)
"""The request that the thread works for."""


class StepBatcher:
    """The turns of the requests for one model, and the thread that computes for them."""

    def __init__(self, max_rows: int = 32, patience_seconds: float = 0.002) -> None:
        self.max_rows, self.patience_seconds = max_rows, patience_seconds
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: list[BatchedCall] = []
        """Calls of this turn of the event loop."""
        self._arrived: list[tuple[asyncio.Future[Any], BatchedCall]] = []
        """Calls that are done, of which the event loop does not know yet."""
        self._ready: deque[PendingRequest] = deque()
        self._pending: list[BatchedCall] = []
        self._holder: PendingRequest | StepBatcher | None = None
        self._turn_since = 0.0
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._closed = self._watches = False
        self._thread = threading.Thread(target=self._compute, name="compute", daemon=True)
        self._thread.start()

    @contextmanager
    def request(self, ticket: PendingRequest) -> Iterator[None]:
        """What runs inside is the request's: it has turns, and its calls through `call` are merged."""
        began = time.perf_counter()
        with self._lock:
            self._refuse_closed()
            self._ready.append(ticket)
            if self._holder is None:
                self._pass_on()
            self._watch()
        ticket.turn.get()
        entered = time.perf_counter()
        ticket.seconds["queue"] += entered - began
        token = _ticket.set(ticket)
        try:
            ticket.check()
            yield
        finally:
            _ticket.reset(token)
            ticket.seconds["model"] += time.perf_counter() - entered - ticket.seconds["batch"]
            with self._lock:
                if self._holder is ticket:
                    self._pass_on()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """function(...), whose tensors all have a row for each sample, merged with like calls; at once where the thread is no request's."""
        ticket = _ticket.get()
        if ticket is None:
            return function(*args, **kwargs)
        ticket.check()
        arguments = {**dict(enumerate(args)), **kwargs}
        names = [name for name, value in arguments.items() if isinstance(value, Tensor) and value.dim()]
        call = BatchedCall(ticket, function, arguments, names, self._return)
        self._add(call)
        ticket.turn.get()
        ticket.seconds["batch"] += time.perf_counter() - call.since - call.seconds
        if call.error is not None:
            raise call.error
        return call.result

    async def outcome(
        self, function: Callable[..., Any], arguments: Mapping[Any, Any], rows: Sequence[str], ticket: PendingRequest,
        then: Callable[[Any], Any] | None = None,
    ) -> Any:  # fmt: skip
        """then(function(**arguments)), the function merged with like calls; `rows` names the arguments that have rows.

        Always asked from the same event loop. What is asked within one of its turns comes together, and it is woken once for all calls that
        ran together: threads that hand things to each other one by one cost more than most models here. What stops a call is its ticket.
        """
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._asked:
            self._loop.call_soon(self._add_asked)
        self._asked.append(BatchedCall(ticket, function, arguments, rows, lambda call: self._arrived.append((future, call)), then))
        return await future

    def _add_asked(self) -> None:
        asked, self._asked = self._asked, []
        try:
            self._add(*asked)
        except Cancelled as error:
            for call in asked:
                call.error = error
            self._finish(asked)

    def close(self) -> None:
        """Ends the thread that computes; calls that wait raise Cancelled."""
        with self._lock:
            self._closed = True
            self._wake.put(None)

    def _add(self, *calls: BatchedCall) -> None:
        with self._lock:
            self._refuse_closed()
            self._pending.extend(calls)
            # who waits for a call has no use for its turn
            if self._holder in (None, calls[0].ticket):
                self._pass_on()
            self._watch()

    def _watch(self) -> None:
        if isinstance(self._holder, PendingRequest) and not self._watches and (self._pending or self._ready):
            self._watches = True
            self._wake.put(None)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Cancelled

    def _return(self, call: BatchedCall) -> None:
        with self._lock:
            self._ready.append(call.ticket)

    def _pass_on(self) -> None:
        """The turn goes to the next request that can go on, else to the calls."""
        self._turn_since = time.perf_counter()
        if self._ready:
            self._holder = self._ready.popleft()
            self._holder.turn.put(None)
        elif self._pending:
            self._holder = self
            self._wake.put(None)
        else:
            self._holder = None

    def _compute(self) -> None:
        """The thread: runs calls whenever it has the turn, or takes it from who keeps it for too long."""
        while not self._closed:
            with suppress(Empty):
                self._wake.get(timeout=self.patience_seconds if self._watches else None)
            if self._run_due():
                with self._lock:
                    self._pass_on()
        self._end()

    def _run_due(self) -> bool:
        """Runs the calls that are due; false where it is a request's turn."""
        with self._lock:
            if isinstance(self._holder, PendingRequest) and time.perf_counter() - self._turn_since > self.patience_seconds:
                self._pass_on()  # the slow one goes on beside the others
            self._watches = isinstance(self._holder, PendingRequest) and bool(self._pending or self._ready)
            if self._holder is not self:
                return False
            group = self._alike()
        if group[0].ticket.cancelled:
            for call in group:
                call.error = Cancelled()
        else:
            run(group, self.max_rows)
        self._finish(group)
        group.clear()  # an error holds this frame, and what is in it would stay until the next collection
        return True

    def _finish(self, calls: Sequence[BatchedCall]) -> None:
        """Tells all who wait for these."""
        for call in calls:
            call.done(call)
        if self._arrived and self._loop is not None:
            arrived, self._arrived = self._arrived, []
            with suppress(RuntimeError):  # the event loop is no more: nobody waits
                self._loop.call_soon_threadsafe(_tell, arrived)

    def _end(self) -> None:
        """Lets all go that wait."""
        with self._lock:
            left, self._pending = self._pending, []
        for call in left:
            call.error = Cancelled()
        self._finish(left)
        with self._lock:
            while self._ready:
                self._ready.popleft().turn.put(None)

    def _alike(self) -> list[BatchedCall]:
        """Takes the oldest call and all that are like it, oldest first, as many as may run together; or those that nobody waits for."""
        group = [call for call in self._pending if call.ticket.cancelled]
        rows = 0
        if not group:
            for call in self._pending:
                if call.key == self._pending[0].key and (not group or rows + call.rows <= self.max_rows):
                    group.append(call)
                    rows += call.rows
        taken = set(map(id, group))
        self._pending = [call for call in self._pending if id(call) not in taken]
        return group


def _tell(arrived: Sequence[tuple[asyncio.Future[Any], BatchedCall]]) -> None:
    for future, call in arrived:
        call.ticket.seconds["model"] += call.seconds
        call.ticket.seconds["batch"] += time.perf_counter() - call.since - call.seconds - call.ticket.seconds["encode"]
        if future.done():
            continue
        if call.error is None:
            future.set_result(call.result)
        else:
            future.set_exception(call.error)
