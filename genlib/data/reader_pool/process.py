"""One reader process: how the supervisor starts it and talks to it, and what runs in it."""

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

from genlib.data.reader_pool.shared_buffers import SharedBuffer, pack
from genlib.json_text import json_text

NO_SAMPLE = -1
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
    """Opens those of the files 0, 1 and 2 that are closed: otherwise a file of the pool could get such a number, and with it what is printed."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(fd)


def progress_table(buffer: SharedBuffer, processes: int) -> np.ndarray:
    """Progress of each process: (processes, 2) int64, the sample it is at, and a count that rises with each sample."""
    return buffer.view(16 * processes).view(np.int64).reshape(processes, 2)


class ReaderProcess:
    """Starts a process in a slot. It gets the files, by number, of the pickled work, of the progress table, and of the buffers, in this order.

    It dies with the thread that starts it, and with this process. Nothing else is inherited: all other files close on exec, and
    since it does not run on as a fork, no lock that another thread holds is copied.
    """

    def __init__(self, slot: int, slots: int, files: Sequence[int]):
        claim_standard_files()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -P: no module in the working folder takes the place of an installed one before sys.path is sent
                [sys.executable, "-P", "-X", "faulthandler", "-c", _BOOT, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a decoder prints must not mix with the output of the command
                stderr=2,
                pass_fds=[theirs.fileno(), *files],
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # there are several readers, and each decodes in one thread
            )
        self.link = Connection(ours.detach())
        with suppress(OSError):  # where it is dead already, `receive` says so
            self.link.send(sys.path)
            self.link.send((slot, slots, list(files)))

    def send_task(self, buffer: int, size: int) -> None:
        """Hands out the task that is pickled in the first `size` bytes of a buffer; through the link itself a large task could block."""
        with suppress(OSError):
            self.link.send((buffer, size))

    def receive(self) -> dict[str, Any] | None:
        """The next answer, see `serve`; None where the process has ended."""
        try:
            return json.loads(self.link.recv_bytes())
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        """Kills it; `receive` then gives the answers it had sent, and None."""
        self._process.kill()

    def reap(self) -> str:
        """Kills it and waits for its end. Returns how it ended."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # one that waits for a dead disk ends later, but runs no more code
            self._process.wait(5)
        self.link.close()
        code = self._process.returncode
        return f"ended with signal {-code}" if code is not None and code < 0 else f"ended with status {code}"


def rebuilt_exception(kind: str, text: str, trace: str) -> Exception:
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
    are JSON and never pickles, as the process reads files that others wrote and may be taken over by one.
    """
    torch.set_num_threads(1)
    server = _ReaderMain(*link.recv())
    with suppress(EOFError, OSError):
        link.send_bytes(_answer(server.start))
        while True:
            link.send_bytes(_answer(server.fill, *link.recv()))


def _answer(function: Callable[..., dict[str, Any]], *arguments: int) -> bytes:
    try:
        answer = function(*arguments)
    except Exception as error:
        # the built-in base of the error: the supervisor rebuilds it by name and imports nothing for it
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
        text = error.args[0] if len(error.args) == 1 and isinstance(error.args[0], str) else str(error)
        answer = {"error": [kind, text[:2000], traceback.format_exc()[-4000:]]}
    return json_text(answer).encode()


class _ReaderMain:
    """State of the process: its work, its row of the progress table and the buffers."""

    def __init__(self, slot: int, slots: int, files: list[int]):
        self._work, shared, *self._buffers = (SharedBuffer(fd) for fd in files)
        self._progress = progress_table(shared, slots)[slot]

    def _on_sample(self, sample: int) -> None:
        self._progress[0] = sample
        self._progress[1] += 1

    def start(self) -> dict[str, Any]:
        """Unpickles the work and starts it."""
        work = pickle.loads(self._work.view(os.fstat(self._work.fd).st_size).data)
        self._make = work.start(self._on_sample)
        self._on_sample(NO_SAMPLE)
        return {}

    def fill(self, buffer: int, size: int) -> dict[str, Any]:
        """Makes the batch of the task in a buffer's first `size` bytes, into the same buffer."""
        self._on_sample(NO_SAMPLE)
        stream = io.BytesIO(self._buffers[buffer].view(size).data)
        quarantined, task = pickle.load(stream), pickle.load(stream)
        try:
            batch = self._make(task, quarantined)
        finally:
            self._on_sample(NO_SAMPLE)
        size, layout = pack(batch, self._buffers[buffer])
        return {"size": size, "layout": layout}
