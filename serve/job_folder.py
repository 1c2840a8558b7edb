"""Jobs as they lie in a folder, whoever does them: found, shown, followed, and within a budget."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from serve.job import ENDED, Job, public, unknown
from serve.problem import Problem

_ID = re.compile(r"job_[0-9a-f]{32}")
_FILE = re.compile(r"(job_[0-9a-f]{32})-(\d{1,5})")
_POLL_SECONDS = 0.25
"""Between looks at a job that another process does."""


class JobFolder:
    """All jobs of a folder, and their pictures."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.changed: dict[str, asyncio.Event] = {}
        """Of the jobs that this process does: set at their next news."""

    def get(self, name: str) -> Job:
        """The job of that name. Problem 404 where there is none."""
        job = Job(self.folder / name)
        if not _ID.fullmatch(name) or not (job.folder / "state.json").is_file():
            raise unknown()
        return job

    def shown(self, job: Job) -> dict[str, Any]:
        """A job's state as clients see it."""
        state = job.state()
        if state["status"] == "in_progress":
            news = next((one for one in reversed(job.events(0)) if "steps" in one), None)
            state = {**state, "progress": {"step": news["step"], "steps": news["steps"]}} if news else state
        return public(state)

    def all(self) -> list[Job]:
        """Newest first."""
        found: list[tuple[float, Job]] = []
        for folder in self.folder.glob("job_*"):
            with contextlib.suppress(OSError):
                found.append(((folder / "work.npz").stat().st_mtime, Job(folder)))
        return [job for _, job in sorted(found, key=lambda one: (one[0], one[1].id), reverse=True)]

    def tell(self, job: Job, kind: str, **values: Any) -> None:
        """Adds news to a job."""
        job.tell(kind, **values)
        self.notify(job)

    def notify(self, job: Job) -> None:
        """Wakes those who follow a job."""
        changed = self.changed.get(job.id)
        if changed is not None:
            self.changed[job.id] = asyncio.Event()
            changed.set()

    async def follow(self, job: Job, after: int) -> AsyncGenerator[dict[str, Any], None]:
        """Events from the one after number `after` on, as they come, until the job's last."""
        while True:
            changed = self.changed.get(job.id)
            events = job.events(after)
            for event in events:
                after = event["id"]
                yield event
                if event["type"].removeprefix("job.") in ENDED:
                    return
            if not events and job.state()["status"] in ENDED:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await (changed.wait() if changed else asyncio.sleep(_POLL_SECONDS))

    async def ended(self, job: Job) -> dict[str, Any]:
        """The state of a job once it is over."""
        async for _ in self.follow(job, len(job.events(0))):
            pass
        return job.state()

    def file(self, name: str) -> bytes:
        """A picture by the last part of its address. Problem 404 where there is none."""
        found = _FILE.fullmatch(name)
        content = Job(self.folder / found[1]).picture(f"result-{int(found[2])}") if found else None
        if content is None:
            raise Problem(404, "there is no such file; the oldest are deleted as new ones come", code="not_found")
        return content

    def make_room(self) -> None:
        """Deletes the oldest jobs that are over until the others keep within the budget."""
        sizes = [(job, job.size()) for job in self.all()]
        excess = sum(size for _, size in sizes) - self.limit_bytes
        for job, size in reversed(sizes[1:]):
            if excess <= 0:
                return
            with contextlib.suppress(Problem):
                if job.state()["status"] in ENDED:
                    shutil.rmtree(job.folder, ignore_errors=True)
                    excess -= size
