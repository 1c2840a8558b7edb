"""One reader process, seen from both ends: how it is started, what it says, and what runs in it."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from genlib.data.reader_pool.shared_buffers import Slot, pack

NOWHERE = -1
"""Number of no sample: between samples, or between batches."""
_BOOT = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.getppid() == int(sys.argv[2]) or os._exit(0)
from multiprocessing.connection import Connection
link = Connection(int(sys.argv[1]))
sys.path[:] = link.recv()
from genlib.data.reader_pool.process import serve
serve(link)
"""


def claim_standard_files() -> None:
    """Opens what is closed of 0, 1 and 2: a file of ours with such a number would get what somebody prints."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(fd)


def marks(slot: Slot, processes: int) -> np.ndarray:
    """What each process says of itself: (processes, 2) int64, the sample it is at and how often it has said so."""
    return slot.view(16 * processes).view(np.int64).reshape(processes, 2)


class ReaderProcess:
    """Starts a process in a seat. It gets the files, by number, of the pickled work, of the marks, and of the slots, in this order.

    It dies with the thread that starts it, and with this process. Nothing else is inherited: all other files close on exec, and
    since it does not run on as a fork, no lock that another thread holds is copied.
    """

    def __init__(self, seat: int, seats: int, files: Sequence[int]):
        claim_standard_files()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-X", "faulthandler", "-c", _BOOT, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                stderr=2,
                pass_fds=[theirs.fileno(), *files],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.link = Connection(ours.detach())
        with suppress(OSError):  # where it is dead already, `hear` says so
            self.link.send(sys.path)
            self.link.send((seat, seats, list(files)))

    def ask(self, place: int, size: int) -> None:
        """Hands out the task that lies pickled in the first `size` bytes of a slot, so that no task is too large for the link."""
        with suppress(OSError):
            self.link.send((place, size))

    def hear(self) -> dict[str, Any] | None:
        """The next answer, see `serve`; None where the process is gone."""
        try:
            return json.loads(self.link.recv_bytes())
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        """Ends it; `hear` then gives what it had said, and None."""
        self._process.kill()

    def bury(self) -> str:
        """Ends it and lets go of it. Returns how it ended."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # one that waits for a dead disk ends later, but runs no more code
            self._process.wait(5)
        self.link.close()
        code = self._process.returncode
        return f"ended with signal {-code}" if code is not None and code < 0 else f"ended with status {code}"


def exception(kind: str, text: str, trace: str) -> Exception:
    """The exception that a process answered, of the same built-in type."""
    try:
        error = getattr(builtins, kind)(text)
    except TypeError:  # one that takes more than a text
        error = RuntimeError(f"{kind}: {text}")
    error.add_note(f"in a reader process:\n{trace}")
    return error


def serve(link: Connection) -> None:
    """Life of a reader process: an answer {} once it has started, then one for each task, until the other end is closed.

    A task's answer is {"size": ..., "layout": ...} of `shared_buffers.pack`. An exception is {"error": [type, text, trace]}. All
    are JSON: the process reads files that others wrote, and is believed no more than that.
    """
    torch.set_num_threads(1)
    server = _Server(*link.recv())
    with suppress(EOFError, OSError):
        link.send_bytes(_answer(server.start))
        while True:
            link.send_bytes(_answer(server.fill, *link.recv()))


def _answer(function: Callable[..., dict[str, Any]], *arguments: int) -> bytes:
    try:
        answer = function(*arguments)
    except Exception as error:
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
        text = error.args[0] if len(error.args) == 1 and isinstance(error.args[0], str) else str(error)
        answer = {"error": [kind, text[:2000], traceback.format_exc()[-4000:]]}
    return json.dumps(answer).encode()


class _Server:
    """What the process works with."""

    def __init__(self, seat: int, seats: int, files: list[int]):
        self._work, shared, *self._slots = (Slot(fd) for fd in files)
        self._mark = marks(shared, seats)[seat]

    def _at(self, sample: int) -> None:
        self._mark[0] = sample
        self._mark[1] += 1

    def start(self) -> dict[str, Any]:
        work = pickle.loads(self._work.view(os.fstat(self._work.fd).st_size).data)
        self._make = work.start(self._at)
        self._at(NOWHERE)
        return {}

    def fill(self, place: int, size: int) -> dict[str, Any]:
        self._at(NOWHERE)
        stream = io.BytesIO(self._slots[place].view(size).data)
        quarantined, task = pickle.load(stream), pickle.load(stream)
        try:
            batch = self._make(task, quarantined)
        finally:
            self._at(NOWHERE)
        size, layout = pack(batch, self._slots[place])
        return {"size": size, "layout": layout}
