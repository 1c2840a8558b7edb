"""Reader processes that fill reused buffers of shared memory. Batches come in the order of their tasks, also where processes die.

`supervisor` starts, feeds and replaces the processes, `process` is one of them, `shared_buffers` the memory between them.
"""

from __future__ import annotations

import os
import pickle
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from genlib.data.reader_pool.supervisor import ReaderSupervisor
from genlib.types import Batch


class ReaderWork(Protocol):
    """The work of a reader process; picklable, so not defined in the script that is run."""

    def start(self, on_sample: Callable[[int], None]) -> Callable[[Any, Mapping[int, str]], Batch]:
        """Called once in the process. The result makes CPU tensors of (task, quarantined samples with the reason).

        It calls `on_sample(sample)` before it touches a sample: if the process then dies or hangs, that sample was the cause.
        """
        ...


class ReaderPool:
    """Batches from reader processes, which start at once and end with `close`, with the pool or with this process.

    `work` is what a process does, `buffers` the number of batches that are made ahead (0 is two a process); a process without
    progress for `timeout_seconds` counts as hung. ValueError on a system without memfd.
    """

    def __init__(self, work: ReaderWork, processes: int, *, buffers: int = 0, timeout_seconds: float = 60.0):
        assert processes > 0 <= buffers
        if not hasattr(os, "memfd_create"):
            raise ValueError(f"data.readers is {processes}, but reader processes need Linux (memfd_create); use 0, which reads in a thread")
        self._buffers = buffers or 2 * processes
        self._supervisor = ReaderSupervisor(pickle.dumps(work), processes, self._buffers, timeout_seconds)
        self._end = weakref.finalize(self, self._supervisor.close)
        self.quarantined = self._supervisor.quarantined
        """Samples that are left out, with the reason: "killed its reader" (twice) or "hung its reader"."""

    def run(self, tasks: Iterable[Any]) -> Generator[Batch, None, None]:
        """Batches in the order of tasks, at most `buffers` of them in the making or waiting; several runs may go on at once.

        Raises what the work raised, at the task's turn; RuntimeError where processes die again and again. The tensors lie in a
        buffer, which is filled again once none of them lives; a consumer that keeps many batches gets copies.
        """
        tasks, ahead = iter(tasks), deque[Future]()
        try:
            while True:
                while len(ahead) < self._buffers and (task := next(tasks, ahead)) is not ahead:
                    ahead.append(self._supervisor.submit(task))
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            # no name may keep one: what ended the pool has this frame in its traceback, and batches that nobody took would live with it
            while ahead:
                ahead.popleft().cancel()

    def close(self) -> None:
        """Ends the processes. Batches that were handed out stay valid; whoever waits for one gets RuntimeError."""
        self._end()

    def __enter__(self) -> ReaderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
