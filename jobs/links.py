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
from jobs.control import asked_to_stop
from jobs.log_file import POLL_SECONDS, LineStream, LogFile, log_path
from jobs.undo import accept, has_begun

_LOG, _ERRORS = "log.txt", "error.log"
_WAITING_BYTES = 1 << 20


class Link(Protocol):
    """A worker's side."""

    def stop_asked(self) -> bool:
        """Whether the driver asks to end."""
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
        self.begun = self.stop = False

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
        return self._ask("stop_asked")

    def accept(self) -> None:
        self._ask("accept")

    def has_begun(self) -> bool:
        return self._ask("has_begun")

    def log(self) -> io.TextIOBase:
        return LineStream(lambda lines: self.mailbox.add.remote(_LOG, lines))

    def trouble(self, text: str) -> None:
        self.mailbox.add.remote(_ERRORS, text)

    def flush(self) -> None:
        self._ask("has_begun")  # which comes after what was said before

    def _ask(self, what: str) -> bool:
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(getattr(self.mailbox, what).remote(), timeout=10)
        except RayError:
            return False


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
