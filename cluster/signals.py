r"""What SIGTERM, SIGINT and SIGHUP do to a command.

The first one asks the work to end well: inside `ends_well` it has the grace time for that, elsewhere the command ends at once, as everything
here may be cut off at any moment. The second one ends it at once. One line says what is kept, and the exit code is the shell's: 143, 130
or 129.

A reader of stdout that goes, as `head` does, is such an end too: the command stops where it prints next, with the shell's exit code 141.
A name that the terminal cannot show, as one of another encoding than its own, is shown as \udce9 and ends nothing.

Work runs in a thread of its own: a handler in the thread that starts Ray would interrupt C++ code that cannot be interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from cluster.quiet import SIGNALS

GRACE_SECONDS = 25.0
"""By default; Kubernetes kills after 30."""
_PIPE = 128 + signal.SIGPIPE
_POLL_SECONDS = 0.05
_SAME_SECONDS = 0.1
"""In which a signal that comes again is the same: `timeout` sends it to the command and then to its group, a closed terminal twice as well."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the work that runs now ends well."""

    ask: Callable[[], object]
    """Asks it to, in a thread of its own: a cluster that does not answer takes none of the grace time."""
    ended: Callable[[], bool]
    """Whether all is kept that can be, though the work may still run."""
    grace_seconds: float


_endings: list[Ending] = []
_kept: list[Callable[[], str]] = []


@contextlib.contextmanager
def ends_well(ask: Callable[[], object], grace_seconds: float = GRACE_SECONDS, ended: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Inside, the first signal calls `ask` and then waits until the command or `ended` is through, at most the grace time."""
    with _on(_endings, Ending(ask, ended, grace_seconds)):
        yield


@contextlib.contextmanager
def keeps(said: Callable[[], str]) -> Iterator[None]:
    """Inside, `said` tells what is kept and how to go on when a signal has ended the command."""
    with _on(_kept, said):
        yield


@contextlib.contextmanager
def _on(stack: list[Any], one: Any) -> Iterator[None]:
    stack.append(one)
    try:
        yield
    finally:
        stack.remove(one)


def interruptible(work: Callable[[], int]) -> int:
    """Runs the work and returns its exit code, or that of the signal that ended it. In another thread than the main one: as it is."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    if threading.current_thread() is not threading.main_thread():
        return work()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]  # a shell's background job, nohup
    try:
        try:
            return _Command(work, heard).run()
        finally:
            if sys.stdout:  # none where the caller closed it
                sys.stdout.flush()  # here, where it may fail, and not as Python exits
    except BrokenPipeError:
        if not _reader_is_gone():  # it was another connection that broke
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in the buffer
        return _PIPE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    if not sys.stdout:
        return False
    stdout = select.poll()
    stdout.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in stdout.poll(0))


class _Command:
    """Work in a thread, and the main thread beside it that hears signals."""

    def __init__(self, work: Callable[[], int], signals: list[signal.Signals]) -> None:
        self.work, self.signals, self.thread = work, signals, threading.Thread(target=self.body, name="command", daemon=True)
        self.code, self.signal, self.heard_at = 0, 0, 0.0
        self.error: BaseException | None = None

    def body(self) -> None:
        try:
            self.code = self.work()
        except BaseException as error:
            self.error = error

    def listen(self) -> None:
        """Again and again: Ray 2.60 puts a handler for SIGTERM in the place of ours, which prints addresses and aborts after 3 s."""
        for number in self.signals:
            signal.signal(number, self.heard)

    def run(self) -> int:
        self.listen()
        self.thread.start()
        while self.thread.is_alive() and not self.signal:
            self.thread.join(_POLL_SECONDS)
            self.listen()
        if self.signal:
            self.end()
        if self.error is not None:
            raise self.error
        return 128 + self.signal if self.signal else self.code

    def heard(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler; it only takes note, as it may have interrupted anything in this thread."""
        if self.signal and time.monotonic() - self.heard_at > _SAME_SECONDS:
            os._exit(128 + number)
        if not self.signal:
            self.signal, self.heard_at = number, time.monotonic()
        signal.alarm(0)  # where Ray's handler was first
        self.listen()

    def end(self) -> None:
        """After the first signal: returns where the work ended by itself, else ends the process."""
        ending = _endings[-1] if _endings else None
        kept = _kept[-1] if _kept else _what_was_finished
        if ending:
            name = signal.Signals(self.signal).name
            _say(f"{name}: ending within {ending.grace_seconds:g} s; a second signal ends at once")
            threading.Thread(target=_quietly, args=(ending.ask,), daemon=True).start()
            deadline = time.monotonic() + ending.grace_seconds
            while self.thread.is_alive() and time.monotonic() < deadline and not ending.ended():
                self.thread.join(_POLL_SECONDS)
        _say(kept())
        if self.thread.is_alive():
            os._exit(128 + self.signal)  # a head of our own ends with this process (`cluster.local`)


def _what_was_finished() -> str:
    return "stopped: what was finished is kept; the same command goes on"


def check_grace(seconds: float) -> None:
    """ValueError where it is no time to wait."""
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"grace_seconds is {seconds:g}; it must be a number of seconds from 0, such as {GRACE_SECONDS:g}")


def _quietly(ask: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):  # who does not hear it is ended with the grace time
        ask()


def _say(text: str) -> None:
    for say in (lambda: print(end="", flush=True), lambda: print(text, file=sys.stderr, flush=True)):  # where a stream is closed, None
        with contextlib.suppress(OSError, ValueError):  # nobody may be left to hear it
            say()
