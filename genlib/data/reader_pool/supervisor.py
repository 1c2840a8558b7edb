"""The thread that supervises reader processes: it starts them, hands out tasks, receives batches, and replaces processes that died or hung.

A process notes in shared memory which sample it is at, so that a sample which kills its readers is known and quarantined.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from genlib.data.reader_pool.process import NO_SAMPLE, ReaderProcess, claim_standard_files, progress_table, rebuilt_exception
from genlib.data.reader_pool.shared_buffers import SharedBuffer, unpack
from genlib.types import Batch

log = logging.getLogger(__name__)
_LENT = 16  # batches that consumers may hold, beside as many as are made ahead, before they get copies
_START_SECONDS = 300.0  # imports from a slow disk, indexes of many shards
_DEATHS, _DEATHS_BETWEEN_SAMPLES = 10, 3  # in one slot, without a batch in between


@dataclass(eq=False, slots=True)
class _PendingBatch:
    """A task that was submitted, and the batch to come."""

    task: bytes
    future: Future[Batch] = field(default_factory=Future)
    buffer: int = -1
    """Number of the buffer that takes the batch."""
    suspect: int = NO_SAMPLE
    """The sample at which a process died on this task."""

    def wanted(self) -> bool:
        """Whether the future was not cancelled."""
        return self.future.running() or self.future.set_running_or_notify_cancel()


@dataclass(eq=False, slots=True)
class _ReaderSlot:
    """One of the pool's positions: the process that now fills it, and its state."""

    number: int
    process: ReaderProcess
    deaths: int
    pending: deque[_PendingBatch] = field(default_factory=deque)
    """Batches that the process has been given, in the order in which it makes them."""
    ready: bool = False
    hung: bool = False
    count: int = 0
    """Its count in the progress table when it was last looked at."""
    quiet_seconds: float = 0.0
    """Time since that count changed."""


class ReaderSupervisor:
    """See `ReaderPool`. All but `submit` and `close` runs in its thread, as a process dies with the thread that started it."""

    def __init__(self, work: bytes, processes: int, buffers: int, timeout_seconds: float):
        claim_standard_files()
        self.quarantined: dict[int, str] = {}
        self._ahead, self._lend, self._timeout_seconds = buffers, buffers + _LENT, timeout_seconds
        self._wake = os.eventfd(0)
        store, shared, *self._buffers = self._files = [SharedBuffer() for _ in range(2 + self._ahead + self._lend)]
        store.write(work)
        self._progress = progress_table(shared, processes)
        self._free = list(range(len(self._buffers)))
        self._waiting: deque[_PendingBatch] = deque()
        self._slots: list[_ReaderSlot] = []
        self._lock, self._closing = threading.RLock(), False
        self._ended: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="readers", daemon=True)
        self._thread.start()

    def submit(self, task: Any) -> Future[Batch]:
        """The batch to come. Raises what ended the supervisor."""
        if not self._thread.is_alive() and self._ended is None:
            raise RuntimeError("reader processes do not belong to a fork of the process that made them; make a ReaderPool in the fork")
        pending = _PendingBatch(pickle.dumps(task))
        with self._lock:
            if self._ended:
                raise self._ended
            self._waiting.append(pending)
            os.eventfd_write(self._wake, 1)
        return pending.future

    def close(self) -> None:
        """Ends the thread and the processes."""
        if not self._thread.is_alive():
            return
        with self._lock:
            self._closing = True
            if not self._ended:
                os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        """Supervises until `close` or an error, which all pending futures get."""
        error: BaseException = RuntimeError("the reader pool was closed")
        try:
            for number in range(len(self._progress)):
                self._slots.append(self._start_reader(number, 0))
            while not self._closing:
                self._assign()
                self._wait_for_readers()
        except BaseException as caught:
            error = caught
        self._finish(error)

    def _start_reader(self, number: int, deaths: int) -> _ReaderSlot:
        self._progress[number] = NO_SAMPLE, 0
        return _ReaderSlot(number, ReaderProcess(number, len(self._progress), [buffer.fd for buffer in self._files]), deaths)

    def _assign(self) -> None:
        """Gives waiting tasks to the processes that have the fewest, each at most its share of what is made ahead."""
        share = -(-self._ahead // len(self._slots))
        while self._waiting and sum(len(slot.pending) for slot in self._slots) < self._ahead:
            able = [slot for slot in self._slots if slot.ready and not slot.hung and len(slot.pending) < share]
            if not able:
                return
            pending = self._waiting.popleft()
            if pending.wanted():
                self._send_task(min(able, key=lambda slot: len(slot.pending)), pending)

    def _send_task(self, slot: _ReaderSlot, pending: _PendingBatch) -> None:
        pending.buffer = self._free.pop()
        slot.pending.append(pending)
        # the quarantine goes with every task, as it may have grown since the process started
        data = pickle.dumps(self.quarantined) + pending.task
        self._buffers[pending.buffer].write(data)
        slot.process.send_task(pending.buffer, len(data))

    def _wait_for_readers(self) -> None:
        """Waits for an answer, a new task or the next look at the progress."""
        tick = min(1.0, self._timeout_seconds / 4)
        before = time.monotonic()
        ready = wait([self._wake, *(slot.process.link for slot in self._slots)], tick)
        passed = min(time.monotonic() - before, 2 * tick)  # after a pause of the whole machine no process counts as hung
        for slot in tuple(self._slots):
            self._check_progress(slot, passed)
            if slot.process.link in ready:
                self._receive(slot)
        if self._wake in ready:
            os.eventfd_read(self._wake)

    def _check_progress(self, slot: _ReaderSlot, passed: float) -> None:
        """Kills a process that has been at the same sample for too long; its end of the link then closes, which `_receive` sees."""
        count = int(self._progress[slot.number, 1])
        if count != slot.count or (slot.ready and not slot.pending):
            slot.count, slot.quiet_seconds = count, 0.0
        slot.quiet_seconds += passed
        if slot.quiet_seconds > (self._timeout_seconds if slot.ready else max(_START_SECONDS, self._timeout_seconds)):
            slot.hung = True
            slot.process.kill()

    def _receive(self, slot: _ReaderSlot) -> None:
        answer = slot.process.receive()
        if answer is None:
            return self._replace(slot)
        slot.quiet_seconds, slot.hung = 0.0, False
        error = rebuilt_exception(*answer["error"]) if "error" in answer else None
        if slot.ready:
            return self._deliver(slot, answer, error)
        if error:
            raise error
        slot.ready = True

    def _deliver(self, slot: _ReaderSlot, answer: dict[str, Any], error: Exception | None) -> None:
        """Resolves a slot's first pending batch."""
        pending, slot.deaths = slot.pending.popleft(), 0
        if error:
            self._free.append(pending.buffer)
            return pending.future.set_exception(error)
        memory = self._buffers[pending.buffer].view(answer["size"])
        batch = unpack(memory, answer["layout"])
        if len(self._buffers) - len(self._free) - sum(len(slot.pending) for slot in self._slots) > self._lend:
            batch = {name: tensor.clone() for name, tensor in batch.items()}
        # the tensors are views of `memory`: once the last of them dies, the buffer is free
        weakref.finalize(memory, self._free.append, pending.buffer).atexit = False
        pending.future.set_result(batch)

    def _replace(self, slot: _ReaderSlot) -> None:
        """Starts another process, which does what a lost one had to do. RuntimeError where that does not help."""
        ended, deaths = slot.process.reap(), slot.deaths + 1
        ended = "hung" if slot.hung else ended
        sample = int(self._progress[slot.number, 0]) if slot.pending else NO_SAMPLE
        where = "between samples" if sample == NO_SAMPLE else f"at sample {sample}"
        if deaths >= (_DEATHS_BETWEEN_SAMPLES if sample == NO_SAMPLE else _DEATHS):
            raise RuntimeError(f"{deaths} reader processes {ended}, one after the other and the last {where}; see stderr, and whether memory ran out")
        log.warning("a reader process %s %s; another takes its place", ended, where)
        if sample != NO_SAMPLE:
            self._quarantine(slot.pending[0], sample, slot.hung)
        for pending in reversed(slot.pending):
            self._free.append(pending.buffer)
            self._waiting.appendleft(pending)
        self._slots[slot.number] = self._start_reader(slot.number, deaths)

    def _quarantine(self, pending: _PendingBatch, sample: int, hung: bool) -> None:
        """Quarantines a sample; a process may be killed for no fault of it, so that it takes two deaths."""
        if hung or pending.suspect == sample:
            self.quarantined[sample] = "hung its reader" if hung else "killed its reader"
            log.warning("sample %d %s: it is left out from now on", sample, self.quarantined[sample])
        pending.suspect = sample

    def _finish(self, error: BaseException) -> None:
        """Ends the processes, and all pending futures with the error."""
        with self._lock:
            self._ended = error
            os.close(self._wake)
        for slot in self._slots:
            slot.process.kill()
        for slot in self._slots:
            slot.process.reap()
            self._waiting.extend(slot.pending)
        del self._progress
        for buffer in self._files:
            buffer.close()
        for pending in self._waiting:
            if pending.wanted():
                pending.future.set_exception(error)
