"""How a command ends: a sentence for what went wrong, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from cluster.local import NotStarted
from cluster.signals import interruptible
from genlib import program
from genlib.storage import StorageError, lacks_room, stopped
from jobs.control import Stopped


class RunStopped(Exception):
    """A run ended before its end; the message is for the user."""


def exit_code(work: Callable[[], int]) -> int:
    """Runs it; what the user did wrong becomes its sentence on stderr and exit code 2, a run that stopped the same and 1.

    A signal ends it as `cluster.signals` says.
    """
    return interruptible(lambda: _exit_code(work))


def _exit_code(work: Callable[[], int]) -> int:
    try:
        return work()
    except Stopped:
        return 1
    except ValueError as error:
        print(program.as_called(str(error)), file=sys.stderr)
        return 2
    except (RunStopped, NotStarted, StorageError) as error:
        print(program.as_called(str(error)), file=sys.stderr)
        return 1
    except Exception as error:
        if not lacks_room(error):
            raise
        print(stopped(error, Path.cwd()), file=sys.stderr)
        return 1
