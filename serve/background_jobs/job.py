"""One job as it lies on disk: `work.npz` (what to do), `state.json`, `events.jsonl` (all news, an event a line), and its pictures.

Its owner alone can read it. The process that does it holds the file `lock`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from genlib.files import write_atomically
from genlib.json_text import json_text
from serve import private
from serve.api_error import ApiError

LOG = logging.getLogger("serve.background_jobs.jobs")
ENDED = ("completed", "failed", "cancelled")
_STATUS = ("queued", "in_progress", *ENDED)
_FIELDS = ("id", "status", "created_at", "progress", "fingerprint", "attempts", "error", "result")
"""Without which a state is damaged."""


def job_id(key: str = "") -> str:
    """A new name, which nobody guesses; with a client's key always the same one."""
    return f"job_{hashlib.sha256(key.encode()).hexdigest()[:32]}" if key else f"job_{secrets.token_hex(16)}"


class BackgroundJob:
    """One job's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.id = folder, folder.name

    def known(self) -> dict[str, Any] | None:
        """Its state; None where there is none, or a damaged one."""
        try:
            state = json.loads((self.folder / "state.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        whole = isinstance(state, dict) and all(name in state for name in _FIELDS) and isinstance(state["progress"], dict)
        return state if whole and state["id"] == self.id and state["status"] in _STATUS and isinstance(state["attempts"], int) else None

    def state(self) -> dict[str, Any]:
        """What `GET /v1/jobs/{id}` answers. ApiError 404 where it is gone."""
        state = self.known()
        if state is None:
            raise unknown()
        return state

    def update(self, **values: Any) -> dict[str, Any]:
        """Writes the state with these values changed, and when it ended."""
        state = {**self.state(), **values}
        if state["status"] in ENDED:
            state.setdefault("ended_ns", time.time_ns())
        self.write("state.json", json_text(state).encode())
        return state

    def write(self, name: str, content: bytes) -> None:
        """Writes a file that is either whole or absent. OSError where its folder is gone, too."""
        self.folder.stat()
        write_atomically(self.folder / name, content, private.FILE)

    def lock(self) -> IO[Any] | None:
        """Holds the job for this process until the file is closed; None where somebody holds it."""
        file = private.open_file(self.folder / "lock", "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    def held(self) -> bool:
        """Whether some process does it."""
        with contextlib.suppress(FileNotFoundError), open(self.folder / "lock", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def ended_ns(self) -> int | None:
        """When it ended, in nanoseconds, whatever its end; None where it waits or runs. What is damaged ended when it was last changed."""
        state = self.known()
        if state is not None and state["status"] not in ENDED:
            return None
        if state is None and self.held():
            return None
        ended = state.get("ended_ns") if state else None
        with contextlib.suppress(OSError):
            return ended if isinstance(ended, int) else (self.folder / "state.json" if state else self.folder).stat().st_mtime_ns
        return 0

    def cancel(self) -> None:
        """Asks whoever does it to stop."""
        private.open_file(self.folder / "cancel", "w").close()

    def cancelled(self) -> bool:
        """Whether it is to stop."""
        return (self.folder / "cancel").exists()

    def tidy(self) -> None:
        """Deletes what a process that died had not written to its end. For whoever holds the lock."""
        for path in self.folder.glob(".*"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Deletes it, with all that is in its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def events(self, after: int) -> list[dict[str, Any]]:
        """All whose number, from 1, is above `after`; a line that a full disk has cut short is none."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "events.jsonl").read_bytes().split(b"\n")[:-1]
            return [{"id": number, **event} for number, line in enumerate(lines, 1) if number > after and (event := _event(line))]
        return []

    def tell(self, kind: str, **values: Any) -> None:
        """Adds an event."""
        with private.open_file(self.folder / "events.jsonl", "ab") as file:
            file.write(json_text({"type": kind, **values}).encode() + b"\n")

    def picture(self, name: str) -> bytes | None:
        """A picture by its file's name; None where it is gone."""
        with contextlib.suppress(OSError):
            return (self.folder / f"{name}.png").read_bytes()
        return None

    def size(self) -> int:
        """Bytes on disk, of all that is in its folder."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None


def public(state: dict[str, Any]) -> dict[str, Any]:
    """A state without what is for the server alone."""
    return {key: value for key, value in state.items() if key not in ("fingerprint", "attempts", "ended_ns")}


def unknown() -> ApiError:
    return ApiError(404, "there is no such job; the oldest are deleted as new ones come", code="not_found")


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Makes a problem of a folder that cannot be written to."""
    try:
        yield
    except OSError as error:
        LOG.error("the jobs' folder cannot be written to: %s", error)
        message = f"the server cannot write jobs to its disk ({error.strerror}); free some of it, or ask without async and response_format url"
        raise ApiError(507, message, code="jobs_unwritable") from None
