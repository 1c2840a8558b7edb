"""What keeps reader processes, in a thread: it starts them, hands out tasks, hears of batches, and replaces who died or hung.

A process says in shared memory which sample it is at, so that a sample that ends its readers is known and left out.
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

from genlib.data.reader_pool.process import NOWHERE, ReaderProcess, claim_standard_files, exception, marks
from genlib.data.reader_pool.shared_buffers import Slot, unpack
from genlib.types import Batch

log = logging.getLogger(__name__)
_LENT = 16  # batches that consumers may hold, beside as many as are made ahead, before they get copies
_START_SECONDS = 300.0  # imports from a slow disk, indexes of many shards
_DEATHS, _DEATHS_NOWHERE = 10, 3  # in one seat, with no batch between them


@dataclass(eq=False, slots=True)
class _Job:
    task: bytes
    future: Future[Batch] = field(default_factory=Future)
    place: int = -1
    """Its slot."""
    suspect: int = NOWHERE
    """The sample at which a process died with it."""

    def wanted(self) -> bool:
        """Whether somebody waits for it."""
        return self.future.running() or self.future.set_running_or_notify_cancel()


@dataclass(eq=False, slots=True)
class _Seat:
    """A reader process and what is known of it."""

    number: int
    process: ReaderProcess
    deaths: int
    jobs: deque[_Job] = field(default_factory=deque)
    """In the order in which it does them."""
    ready: bool = False
    hung: bool = False
    beat: int = 0
    quiet_seconds: float = 0.0


class Keeper:
    """See `ReaderPool`. All but `submit` and `close` runs in its thread, as a process dies with the thread that started it."""

    def __init__(self, work: bytes, processes: int, slots: int, timeout_seconds: float):
        claim_standard_files()
        self.quarantined: dict[int, str] = {}
        self._ahead, self._lend, self._timeout_seconds = slots, slots + _LENT, timeout_seconds
        self._wake = os.eventfd(0)
        store, shared, *self._slots = self._files = [Slot() for _ in range(2 + self._ahead + self._lend)]
        store.write(work)
        self._marks = marks(shared, processes)
        self._free = list(range(len(self._slots)))
        self._waiting: deque[_Job] = deque()
        self._seats: list[_Seat] = []
        self._lock, self._closing = threading.RLock(), False
        self._over: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="readers", daemon=True)
        self._thread.start()

    def submit(self, task: Any) -> Future[Batch]:
        """The batch to come. Raises what ended the keeper."""
        if not self._thread.is_alive() and self._over is None:
            raise RuntimeError("reader processes do not belong to a fork of the process that made them; make a ReaderPool in the fork")
        job = _Job(pickle.dumps(task))
        with self._lock:
            if self._over:
                raise self._over
            self._waiting.append(job)
            os.eventfd_write(self._wake, 1)
        return job.future

    def close(self) -> None:
        """Ends the thread and the processes."""
        if not self._thread.is_alive():
            return
        with self._lock:
            self._closing = True
            if not self._over:
                os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        """Keeps until `close` or an error, which everyone who waits gets."""
        error: BaseException = RuntimeError("the reader pool was closed")
        try:
            for number in range(len(self._marks)):
                self._seats.append(self._begin(number, 0))
            while not self._closing:
                self._hand_out()
                self._listen()
        except BaseException as caught:
            error = caught
        self._finish(error)

    def _begin(self, number: int, deaths: int) -> _Seat:
        self._marks[number] = NOWHERE, 0
        return _Seat(number, ReaderProcess(number, len(self._marks), [slot.fd for slot in self._files]), deaths)

    def _hand_out(self) -> None:
        """Gives waiting jobs to the processes that have the fewest, each at most its share of what is made ahead."""
        share = -(-self._ahead // len(self._seats))
        while self._waiting and sum(len(seat.jobs) for seat in self._seats) < self._ahead:
            able = [seat for seat in self._seats if seat.ready and not seat.hung and len(seat.jobs) < share]
            if not able:
                return
            job = self._waiting.popleft()
            if job.wanted():
                self._send(min(able, key=lambda seat: len(seat.jobs)), job)

    def _send(self, seat: _Seat, job: _Job) -> None:
        job.place = self._free.pop()
        seat.jobs.append(job)
        data = pickle.dumps(self.quarantined) + job.task
        self._slots[job.place].write(data)
        seat.process.ask(job.place, len(data))

    def _listen(self) -> None:
        tick = min(1.0, self._timeout_seconds / 4)
        before = time.monotonic()
        ready = wait([self._wake, *(seat.process.link for seat in self._seats)], tick)
        passed = min(time.monotonic() - before, 2 * tick)  # where all of us were stopped for long, nobody hung
        for seat in tuple(self._seats):
            self._time(seat, passed)
            if seat.process.link in ready:
                self._hear(seat)
        if self._wake in ready:
            os.eventfd_read(self._wake)

    def _time(self, seat: _Seat, passed: float) -> None:
        """Kills a process that has been at the same sample for too long; that it is gone is then heard."""
        beat = int(self._marks[seat.number, 1])
        if beat != seat.beat or (seat.ready and not seat.jobs):
            seat.beat, seat.quiet_seconds = beat, 0.0
        seat.quiet_seconds += passed
        if seat.quiet_seconds > (self._timeout_seconds if seat.ready else max(_START_SECONDS, self._timeout_seconds)):
            seat.hung = True
            seat.process.kill()

    def _hear(self, seat: _Seat) -> None:
        answer = seat.process.hear()
        if answer is None:
            return self._replace(seat)
        seat.quiet_seconds, seat.hung = 0.0, False
        error = exception(*answer["error"]) if "error" in answer else None
        if seat.ready:
            return self._give(seat, answer, error)
        if error:
            raise error
        seat.ready = True

    def _give(self, seat: _Seat, answer: dict[str, Any], error: Exception | None) -> None:
        job, seat.deaths = seat.jobs.popleft(), 0
        if error:
            self._free.append(job.place)
            return job.future.set_exception(error)
        memory = self._slots[job.place].view(answer["size"])
        batch = unpack(memory, answer["layout"])
        if len(self._slots) - len(self._free) - sum(len(seat.jobs) for seat in self._seats) > self._lend:
            batch = {name: tensor.clone() for name, tensor in batch.items()}
        weakref.finalize(memory, self._free.append, job.place).atexit = False
        job.future.set_result(batch)

    def _replace(self, seat: _Seat) -> None:
        """Starts another process, which does what a lost one had to do. RuntimeError where that does not help."""
        ended, deaths = seat.process.bury(), seat.deaths + 1
        ended = "hung" if seat.hung else ended
        sample = int(self._marks[seat.number, 0]) if seat.jobs else NOWHERE
        where = "between samples" if sample == NOWHERE else f"at sample {sample}"
        if deaths >= (_DEATHS_NOWHERE if sample == NOWHERE else _DEATHS):
            raise RuntimeError(f"{deaths} reader processes {ended}, one after the other and the last {where}; see stderr, and whether memory ran out")
        log.warning("a reader process %s %s; another takes its place", ended, where)
        if sample != NOWHERE:
            self._blame(seat.jobs[0], sample, seat.hung)
        for job in reversed(seat.jobs):
            self._free.append(job.place)
            self._waiting.appendleft(job)
        self._seats[seat.number] = self._begin(seat.number, deaths)

    def _blame(self, job: _Job, sample: int, hung: bool) -> None:
        """Quarantines a sample; a process may be killed for no fault of it, so that it takes two deaths."""
        if hung or job.suspect == sample:
            self.quarantined[sample] = "hung its reader" if hung else "killed its reader"
            log.warning("sample %d %s: it is left out from now on", sample, self.quarantined[sample])
        job.suspect = sample

    def _finish(self, error: BaseException) -> None:
        with self._lock:
            self._over = error
            os.close(self._wake)
        for seat in self._seats:
            seat.process.kill()
        for seat in self._seats:
            seat.process.bury()
            self._waiting.extend(seat.jobs)
        del self._marks
        for slot in self._files:
            slot.close()
        for job in self._waiting:
            if job.wanted():
                job.future.set_exception(error)
