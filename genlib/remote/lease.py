"""Who works in a folder of a store: an object with the holder's name that the holder writes again and again, while it lives.

Nothing in a store ends with a process. So a holder that has not been heard of for `LEASE_SECONDS` counts as dead, by the clock of the one who waits;
one whose process is seen to be gone on this machine counts at once.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from genlib.json_text import json_text
from genlib.remote.store_folder import StoreFolder, Version

LEASE_SECONDS, RENEW_SECONDS = 30.0, 5.0
LEASE = ".lease"


class LeaseHeld(ValueError):
    """Somebody else, who is named, works in the folder."""


class Lease:
    """Inside, this process holds the folder. LeaseHeld where another one does.

    say: hears that a holder is waited for; lost: is called, in a thread, where somebody has taken the folder over.
    """

    def __init__(self, folder: StoreFolder, say: Callable[[str], None], lost: Callable[[], None], *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.folder, self._say, self._lost, self.lease_seconds = folder, say, lost, lease_seconds
        self._facts = {"pid": os.getpid(), "machine": _machine(), "host": socket.gethostname(), "token": secrets.token_hex(8)}
        self._version, self.taken_by, self._times = ("", ""), "", 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        while not (version := self._taken()):
            time.sleep(0.1)
        self._version = version
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if not self.taken_by:
            try:
                self.folder.delete([LEASE])
            except OSError as error:
                self._say(f"{error}; the next launch waits {self.lease_seconds:g} s for it")

    def _content(self) -> bytes:
        """Never twice the same, as an ETag may be made of the content."""
        self._times += 1
        return json_text({**self._facts, "times": self._times}).encode()

    def _is_mine(self, content: bytes) -> bool:
        return _facts(content).get("token") == self._facts["token"]

    def _taken(self) -> Version | None:
        """The version of the lease as this process has written it; None where it is to be tried again."""
        if version := self.folder.create(LEASE, self._content()):
            return version
        found = self.folder.read(LEASE)
        if found is None:
            return None
        if self._is_mine(found[0]):  # the answer to the first try was lost
            return found[1]
        if not _is_gone(found[0]):
            self._wait_for_end(*found)
        return self.folder.replace(LEASE, self._content(), found[1])

    def _wait_for_end(self, content: bytes, version: Version) -> None:
        """LeaseHeld where the holder writes its lease again."""
        holder = _holder(content)
        self._say(f"{self.folder} is held by {holder}; waiting up to {self.lease_seconds:g} s to see whether that still runs")
        deadline = time.monotonic() + self.lease_seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            found = self.folder.read(LEASE)
            if found is None:
                return
            if found[1] != version:
                raise LeaseHeld(_holder(found[0]))

    def _renew(self) -> None:
        while not self._over.wait(self.lease_seconds * RENEW_SECONDS / LEASE_SECONDS):
            try:
                if version := self.folder.replace(LEASE, self._content(), self._version):
                    self._version = version
                    continue
                found = self.folder.read(LEASE)
            except OSError:  # a store that does not answer takes no lease of anybody else
                continue
            if found is not None and self._is_mine(found[0]):  # the answer was lost
                self._version = found[1]
                continue
            self.taken_by = _holder(found[0]) if found else "somebody who deleted its lease"
            self._lost()
            return


def _machine() -> str:
    """This machine since it started, and the processes that see each other on it."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _facts(content: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _holder(content: bytes) -> str:
    facts = _facts(content)
    return f"pid {facts.get('pid')} on {facts.get('host')}" if facts else "another process"


def _is_gone(content: bytes) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    facts = _facts(content)
    if not facts.get("machine") or facts["machine"] != _machine() or not isinstance(facts.get("pid"), int):
        return False
    return not Path(f"/proc/{facts['pid']}").exists()
