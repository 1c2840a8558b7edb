"""What signals do while a command imports its modules, which takes seconds: a line, and no traceback. It imports next to nothing itself."""

from __future__ import annotations

import os
import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""That end a command."""


def ends_quietly() -> None:
    """Until `cluster.signals.interruptible` listens: a signal ends the process with a line, and the shell's exit code."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stopped)


def _stopped(number: int, frame: object) -> None:
    try:  # noqa: SIM105 what contextlib imports takes time
        os.write(2, b"stopped before anything was done; the same command begins again\n")
    except OSError:  # nobody may be left to hear it
        pass
    os._exit(128 + number)
