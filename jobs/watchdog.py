"""Looks at the pulses of a run's workers: names one that is stopped or hangs, which ends them all, and one that slows the others down."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jobs.links import Link
from jobs.pulse import BEAT_SECONDS, Pulse, stacks_file, stalls
from jobs.run_metrics import RunMetrics

SILENT_SECONDS = 30.0
"""A worker whose thread has written nothing for so long is stopped, or its machine is."""
ALL_SILENT_SECONDS = 300.0
"""The same where nothing is heard of any worker."""
SLOW_FACTOR, SLOW_SHARE, SLOW_LOOKS = 2.0, 0.1, 5
"""A worker is slow that needs so many times what the others do for its data and forward pass, if that is so much of a step, at so many looks."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Why a run's workers are to begin again."""

    ranks: tuple[int, ...]
    """Those it is for, as far as that shows."""
    words: str


class Hung(Exception):
    """Workers hung more often than the run may be tried again; the message is a sentence for the user."""


class Watchdog:
    """Of one run."""

    def __init__(self, run: Path, link: Link, stall_seconds: float) -> None:
        """stall_seconds: a step that takes longer, and twenty times the mean, does not end; 0 looks for none."""
        self.run, self.link, self.stall_seconds = run, link, stall_seconds
        self.heard: dict[int, tuple[float, float]] = {}
        """Of each worker the time that its last pulse tells, and when that was first seen here: clocks of machines differ."""
        self.slow_looks: dict[int, int] = {}
        self.told: set[int] = set()

    def begin(self) -> None:
        """Workers start anew."""
        self.heard, self.slow_looks, self.told = {}, {}, set()
        self.link.allow_to_stay()

    def hang(self, world: int, now: float | None = None) -> Hang | None:
        """What hangs of so many workers; None where nothing does. Called again and again; now: seconds of a clock that stands still in sleep."""
        if not self.stall_seconds:
            return None
        found, now = self.link.pulses(world), time.monotonic() if now is None else now
        for rank, one in found.items():
            if self.heard.get(rank, (0.0, 0.0))[0] != one.time:
                self.heard[rank] = one.time, now
        quiet = {rank: now - self.heard[rank][1] for rank, one in found.items() if one.moved}
        # where nothing is heard of any of them, it may be what carries the pulses
        limit = SILENT_SECONDS if min(quiet.values(), default=0.0) < SILENT_SECONDS else ALL_SILENT_SECONDS
        if silent := [found[rank] for rank, seconds in quiet.items() if seconds > limit]:
            since = max(quiet[one.rank] for one in silent)
            return Hang(
                tuple(one.rank for one in silent), f"{names(silent)} has not been heard of for {since:.0f} s: it is stopped, or its machine is"
            )
        if len(found) < world or not all(stalls(one, self.stall_seconds) for one in found.values()):
            return None
        stuck = [one for one in found.values() if not one.waits]
        since = max(one.time - one.moved for one in found.values())
        kept = stacks_file(self.run, stuck[0].rank if stuck else 0)
        if 0 < len(stuck) < world:
            at = {"step": "in its step", "data": "waiting for data"}[stuck[0].at]
            return Hang(
                tuple(one.rank for one in stuck), f"{names(stuck)} hangs {at} for {since:.0f} s, and the others wait for it; stacks in {kept}"
            )
        return Hang((), f"no worker has ended a step for {since:.0f} s; stacks of all in {kept.parent}")

    def slow(self, world: int) -> str:
        """A sentence on a worker that the others have waited for at several looks in a row, once for each; empty where there is none."""
        found = {rank: one for rank, one in self.link.pulses(world).items() if one.own and one.seconds}
        for rank, one in found.items():
            others = [other.own for other in found.values() if other is not one]
            slow = bool(others) and one.own > SLOW_FACTOR * median(others) and one.own - median(others) > SLOW_SHARE * one.seconds
            self.slow_looks[rank] = self.slow_looks.get(rank, 0) + 1 if slow else 0
            if self.slow_looks[rank] >= SLOW_LOOKS and rank not in self.told:
                self.told.add(rank)
                return (
                    f"{names([one])} is slow: its data and forward pass take {one.own:.3g} s a step and those of the others {median(others):.3g} s, "
                    "and all wait for it; look at its node, which may be shared, hot or short of cores"
                )
        return ""


def names(found: list[Pulse]) -> str:
    """`worker 1 on node-b` and `workers 1 and 3 on node-b and node-c`."""
    ranks, nodes = " and ".join(str(one.rank) for one in found), " and ".join(dict.fromkeys(one.node for one in found))
    return f"worker{'s' if len(found) > 1 else ''} {ranks} on {nodes}"


class WorkerGuard:
    """In what places a run's workers: ends those that hang, as often as the run may be tried again; pickled with it."""

    def __init__(self, run: Path, link: Link, stall_seconds: float, retries: int) -> None:
        self.run, self.link, self.retries, self.hung = run, link, retries, 0
        self.dog, self.looked = Watchdog(run, link, stall_seconds), float("-inf")

    def begin(self) -> None:
        """Before workers start."""
        self.dog.begin()

    def ends(self, world: int) -> bool:
        """Whether so many workers that run are to end, and others to go on from the newest checkpoint; said. Hung where that was too often."""
        if time.monotonic() - self.looked < BEAT_SECONDS:
            return False
        self.looked = time.monotonic()
        if slow := self.dog.slow(world):
            self.link.tell("slow", slow)
        if (hang := self.dog.hang(world)) is None:
            return False
        self.hung += 1
        if 0 <= self.retries < self.hung:
            raise Hung(hang.words)
        RunMetrics(self.run).add("genlib_train_restarts_total", 1)
        self.link.tell("hung", f"{hang.words}; the run goes on from its newest checkpoint (retry {self.hung} of {self.retries})")
        self.dog.begin()
        return True
