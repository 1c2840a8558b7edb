"""What every worker of a run is at, written down every other second, so that one that hangs, is stopped or runs out of memory can be named.

A worker overwrites its line in `log/pulse_RANK.json`; a thread does it, so that it says what the one that trains is at when that hangs.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Protocol

from genlib import distributed
from genlib.json_text import json_text

BEAT_SECONDS = 2.0
_LINE_BYTES = 512
"""Lines are as long as each other, so that one that is written over another takes no room where a disk is full."""
_WAITS = ("/torch/distributed/", "/deepspeed/comm/", "/genlib/distributed.py")
"""Files in which a worker waits for others."""


_PLACES = {"__next__": "data", "evaluate": "evaluate", "draw": "draw", "save": "save", "settle": "save"}
"""What the functions are for that the training loop calls; others are part of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """Of a worker at one moment."""

    rank: int
    node: str
    time: float
    """Seconds since 1970."""
    step: int
    """The last step done."""
    moved: float
    """When that was done; 0 before the first one of this start."""
    seconds: float
    """Mean time of the steps of this start."""
    own: float
    """Of that, for its data and its forward pass."""
    at: str
    """`step`, `data`, `evaluate`, `draw` and the like: what the training loop is at, or empty outside of it."""
    waits: bool
    """Whether it waits for other workers there, as far as its Python stack shows."""
    memory_left: float
    """Share of the machine's memory that is free, or of what its container may use."""


def pulse_file(run: Path, rank: int) -> Path:
    """Where a worker writes."""
    return run / "log" / f"pulse_{rank:05d}.json"


def stacks_file(run: Path, rank: int) -> Path:
    """Where a worker whose step does not end writes what its threads are at."""
    return run / "log" / f"stacks_{rank:05d}.txt"


def write_pulse(run: Path, pulse: Pulse) -> None:
    """Over the worker's last one; one that cannot be written is missing."""
    with suppress(OSError):
        write_over(pulse_file(run, pulse.rank), json_text(asdict(pulse)).encode().ljust(_LINE_BYTES))


def forget_pulses(run: Path) -> None:
    """Of workers that are no more."""
    for path in (run / "log").glob("pulse_*.json"):
        path.unlink(missing_ok=True)


def read_pulses(run: Path, world: int) -> dict[int, Pulse]:
    """The last of each of so many workers that has written one, by rank."""
    found = {}
    names = {one.name for one in fields(Pulse)}
    for rank in range(world):
        with suppress(OSError, ValueError, TypeError):
            line = json.loads(pulse_file(run, rank).read_bytes())
            found[rank] = Pulse(**{name: value for name, value in line.items() if name in names})
    return found


class Told(Protocol):
    """Who hears of a pulse."""

    def beat(self, pulse: Pulse) -> None:
        """Of a worker."""
        ...


class Heart:
    """Tells this worker's pulse while it is open; `stall_seconds` after which a step that does not end has its stacks written, 0 for never."""

    def __init__(self, told: Told, run: Path, stall_seconds: float) -> None:
        """told: who is told; run: the run's folder on this node."""
        self.told, self.run, self.stall_seconds, self.rank = told, run, stall_seconds, distributed.rank()
        self.step = self.steps = 0
        self.moved = self.began = self.own = self.seconds = 0.0
        self.trains = threading.get_ident()  # Ray Train's training function is in a thread of its own
        self._written = -1
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> Heart:
        stacks_file(self.run, self.rank).unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.begin()  # whoever has ended is not missed
        self.told.beat(self.pulse())

    def begin(self) -> None:
        """A stage begins, whose steps are not like those of the one before."""
        self.steps, self.moved, self.own, self.seconds = 0, 0.0, 0.0, 0.0

    def on_step(self, done: int) -> None:
        """A step more is done."""
        now = time.time()
        if self.moved:
            self.steps += 1
            self.seconds = (now - self.began) / self.steps
        else:
            self.began = now  # the first one of a start is not like others
        self.step, self.moved = done, now

    def pulse(self) -> Pulse:
        """As it is now."""
        at, waits = place(sys._current_frames().get(self.trains))
        return Pulse(
            rank=self.rank, node=socket.gethostname(), time=time.time(), step=self.step, moved=self.moved, seconds=self.seconds, own=self.own,
            at=at, waits=waits, memory_left=memory_left(),
        )  # fmt: skip

    def _beat(self) -> None:
        while True:
            now = self.pulse()
            self.told.beat(now)
            if stalls(now, self.stall_seconds) and self._written != now.step:
                self._written = now.step
                with suppress(OSError), open(stacks_file(self.run, self.rank), "w") as file:
                    file.write(f"worker {self.rank} on {now.node}, {time.time() - now.moved:.0f} s after step {now.step}\n")
                    file.flush()
                    faulthandler.dump_traceback(file, all_threads=True)
            if self._over.wait(BEAT_SECONDS):
                return


def stalls(now: Pulse, stall_seconds: float) -> bool:
    """Whether a step has taken that long, and twenty times the mean; the first one of a start may take its time."""
    waited = now.time - now.moved
    return bool(stall_seconds and now.moved and now.at in ("step", "data")) and waited > max(stall_seconds, 20 * now.seconds)


def place(frame: FrameType | None) -> tuple[str, bool]:
    """What a thread with this innermost frame is at in `genlib.engine.fit`, and whether it waits for other workers."""
    waits, inner = False, ""
    for number, one in enumerate(_outwards(frame)):
        code = one.f_code
        waits |= number < 12 and any(part in code.co_filename for part in _WAITS)
        if code.co_filename.endswith("/genlib/engine/fit.py") and code.co_name == "loop":
            return _PLACES.get(inner, "step"), waits
        inner = code.co_name
    return "", waits


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def memory_left() -> float:
    """Share of what this process may use, by its container's limit or the machine's memory, that is free."""
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())}
    left = kilobytes["MemAvailable"] / kilobytes["MemTotal"]
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        left = min(left, 1 - used / limit)
    return round(left, 4)


def write_over(path: Path, line: bytes) -> None:
    """In place, so that readers see one line or the other."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(handle, line, 0)
    finally:
        os.close(handle)
