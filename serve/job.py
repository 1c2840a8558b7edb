"""One job as it lies on disk: `work.npz` (what to do), `state.json`, `events.jsonl` (all news, an event a line), and its pictures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from genlib.data.files import write_atomically
from serve.problem import Problem

ENDED = ("completed", "failed", "cancelled")


def job_id(key: str = "") -> str:
    """A new name, which nobody guesses; with a client's key always the same one."""
    return f"job_{hashlib.sha256(key.encode()).hexdigest()[:32]}" if key else f"job_{secrets.token_hex(16)}"


class Job:
    """One job's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.id = folder, folder.name

    def state(self) -> dict[str, Any]:
        """What `GET /v1/jobs/{id}` answers. Problem 404 where it is gone."""
        try:
            return json.loads((self.folder / "state.json").read_bytes())
        except (OSError, ValueError):
            raise unknown() from None

    def update(self, **values: Any) -> dict[str, Any]:
        """Writes the state with these values changed."""
        state = {**self.state(), **values}
        write_atomically(self.folder / "state.json", json.dumps(state).encode())
        return state

    def events(self, after: int) -> list[dict[str, Any]]:
        """All whose number, from 1, is above `after`."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "events.jsonl").read_bytes().split(b"\n")[:-1]
            return [{"id": number, **json.loads(line)} for number, line in enumerate(lines, 1) if number > after]
        return []

    def tell(self, kind: str, **values: Any) -> None:
        """Adds an event."""
        with (self.folder / "events.jsonl").open("ab") as file:
            file.write(json.dumps({"type": kind, **values}).encode() + b"\n")

    def picture(self, name: str) -> bytes | None:
        """A picture by its file's name; None where it is gone."""
        with contextlib.suppress(OSError):
            return (self.folder / f"{name}.png").read_bytes()
        return None

    def size(self) -> int:
        """Bytes on disk."""
        with contextlib.suppress(OSError):
            return sum(path.stat().st_size for path in self.folder.iterdir())
        return 0


def public(state: dict[str, Any]) -> dict[str, Any]:
    """A state without what is for the server alone."""
    return {key: value for key, value in state.items() if key not in ("fingerprint", "attempts")}


def unknown() -> Problem:
    return Problem(404, "there is no such job; the oldest are deleted as new ones come", code="not_found")
