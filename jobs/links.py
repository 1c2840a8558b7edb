"""How a run's driver and its workers hear of each other: by files in the run's folder, which all of them see; or by an actor beside the driver.

A run in a store has no such folder. What is said once a second would be as many requests to the store, and a log cannot be added to there.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from genlib.storage import LineFile
from jobs.control import allow_to_stay, ask_to_move, asked_to_move, asked_to_stop
from jobs.launches import LAUNCHES, befell, note
from jobs.log_file import POLL_SECONDS, LineStream, LogFile, log_path
from jobs.pulse import Pulse, forget_pulses, read_pulses, write_pulse
from jobs.undo import accept, has_begun

_LOG, _ERRORS = "log.txt", "error.log"
_WAITING_BYTES = 1 << 20


class Link(Protocol):
    """The side of a worker, and of what places workers."""

    def stop_asked(self) -> bool:
        """Whether the driver asks to end."""
        ...

    def move_asked(self) -> bool:
        """Whether the workers are to save and leave their places to others."""
        ...

    def ask_to_move(self) -> None:
        """Asks for it, from where workers are placed."""
        ...

    def allow_to_stay(self) -> None:
        """Workers that start now are where they are to be, and have no pulse yet."""
        ...

    def beat(self, pulse: Pulse) -> None:
        """What this worker is at."""
        ...

    def pulses(self, world: int) -> dict[int, Pulse]:
        """The last of each of so many workers that has told one, by rank."""
        ...

    def tell(self, what: str, why: str) -> None:
        """Says a sentence on what befell the workers, and keeps it in the run's record (`jobs.launches`)."""
        ...

    def accept(self) -> None:
        """Says that the run has begun, see `jobs.undo`."""
        ...

    def has_begun(self) -> bool:
        """Whether that was said."""
        ...

    def log(self) -> io.TextIOBase:
        """A stream of lines to the run's log."""
        ...

    def trouble(self, text: str) -> None:
        """Adds to the run's error.log."""
        ...

    def flush(self) -> None:
        """Returns when all that was said has arrived."""
        ...


@dataclass(frozen=True, slots=True)
class FolderLink:
    """By the run's folder; `control` is where the driver asks to stop."""

    run: Path
    control: Path

    def stop_asked(self) -> bool:
        return asked_to_stop(self.control)

    def move_asked(self) -> bool:
        return asked_to_move(self.run)

    def ask_to_move(self) -> None:
        ask_to_move(self.run)

    def allow_to_stay(self) -> None:
        allow_to_stay(self.run)
        forget_pulses(self.run)

    def beat(self, pulse: Pulse) -> None:
        write_pulse(self.run, pulse)

    def pulses(self, world: int) -> dict[int, Pulse]:
        return read_pulses(self.run, world)

    def tell(self, what: str, why: str) -> None:
        note(self.run, what, why)
        print(why, file=self.log())

    def accept(self) -> None:
        accept(self.run)

    def has_begun(self) -> bool:
        return has_begun(self.run)

    def log(self) -> io.TextIOBase:
        return LogFile(log_path(self.run))

    def trouble(self, text: str) -> None:
        with suppress(OSError), open(self.run / _ERRORS, "a") as file:
            file.write(text)

    def flush(self) -> None:
        """All has."""


class Mailbox:
    """What the actor keeps until the driver takes it. Lines above a mebibyte are dropped, as they are where a disk is full."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.begun = self.stop = self.move = False
        self.found: dict[int, Pulse] = {}

    def add(self, name: str, text: str) -> None:
        """Adds text to a file of the run's folder."""
        if sum(len(one) for _, one in self.lines) + len(text) <= _WAITING_BYTES:
            self.lines.append((name, text))

    def take(self, stop: bool) -> tuple[list[tuple[str, str]], bool]:
        """What was added since the last time, and whether the run has begun; `stop`: whether it is to end."""
        self.stop = self.stop or stop
        taken, self.lines = self.lines, []
        return taken, self.begun

    def stop_asked(self) -> bool:
        """Whether it is to end."""
        return self.stop

    def move_asked(self) -> bool:
        """Whether its workers are to leave their places."""
        return self.move

    def ask_to_move(self) -> None:
        """They are to."""
        self.move = True

    def allow_to_stay(self) -> None:
        """They are where they are to be."""
        self.move, self.found = False, {}

    def beat(self, pulse: Pulse) -> None:
        """What a worker is at."""
        self.found[pulse.rank] = pulse

    def pulses(self) -> dict[int, Pulse]:
        """The last of each."""
        return self.found

    def accept(self) -> None:
        """The run has begun."""
        self.begun = True

    def has_begun(self) -> bool:
        """Whether it has."""
        return self.begun


@dataclass(frozen=True, slots=True)
class ActorLink:
    """By an actor; one that is lost asks for nothing, and a new one takes its place."""

    mailbox: Any
    """The handle of a `Mailbox`."""

    def stop_asked(self) -> bool:
        return bool(self._ask("stop_asked"))

    def move_asked(self) -> bool:
        return bool(self._ask("move_asked"))

    def ask_to_move(self) -> None:
        self._ask("ask_to_move")

    def allow_to_stay(self) -> None:
        self._ask("allow_to_stay")

    def beat(self, pulse: Pulse) -> None:
        self.mailbox.beat.remote(pulse)

    def pulses(self, world: int) -> dict[int, Pulse]:
        return {rank: one for rank, one in (self._ask("pulses") or {}).items() if rank < world}

    def tell(self, what: str, why: str) -> None:
        self.mailbox.add.remote(LAUNCHES, befell(what, why))
        print(why, file=self.log())

    def accept(self) -> None:
        self._ask("accept")

    def has_begun(self) -> bool:
        return bool(self._ask("has_begun"))

    def log(self) -> io.TextIOBase:
        return LineStream(lambda lines: self.mailbox.add.remote(_LOG, lines))

    def trouble(self, text: str) -> None:
        self.mailbox.add.remote(_ERRORS, text)

    def flush(self) -> None:
        self._ask("has_begun")  # which comes after what was said before

    def _ask(self, what: str) -> Any:
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(getattr(self.mailbox, what).remote(), timeout=10)
        except RayError:
            return None


def open_mailbox() -> Any:
    """The handle of a new mailbox on this node, which ends with this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


@contextmanager
def relayed(mailbox: Any, run: Path, control: Path) -> Iterator[None]:
    """Inside, the driver's folder gets what workers put into the mailbox, and they hear what it says in `control`."""
    over = threading.Event()
    thread = threading.Thread(target=_relay, args=(mailbox, run, control, over), name="mail", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)


def _relay(mailbox: Any, run: Path, control: Path, over: threading.Event) -> None:
    import ray
    from ray.exceptions import RayError

    files: dict[str, LineFile] = {}
    last = False
    while not last:
        last = over.wait(POLL_SECONDS)  # once more at the end
        try:
            lines, begun = ray.get(mailbox.take.remote(asked_to_stop(control)), timeout=10)
        except RayError:
            continue
        if begun:
            accept(run)
        for name, text in lines:
            with suppress(OSError):
                files.setdefault(name, LineFile(run / name)).append(text)
