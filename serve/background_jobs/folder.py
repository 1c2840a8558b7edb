"""Jobs as they lie in a folder, whoever does them: found, shown, followed, and within a budget.

All of them count towards it, whatever became of them: those that wait or run, that are over, and that are damaged. What is not named as
a job is somebody else's, and neither counts nor is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

from genlib.files import locked
from serve import private
from serve.api_error import ApiError, busy
from serve.background_jobs.job import ENDED, BackgroundJob, public, unknown

_ID = re.compile(r"job_[0-9a-f]{32}")
_FILE = re.compile(r"(job_[0-9a-f]{32})-(\d{1,5})")
_POLL_SECONDS = 0.25
"""Between looks at a job that another process does."""
_DOOR = ".room"
"""Held by whoever makes room and takes it."""
_OURS = (_DOOR, ".lock", ".answers", ".metrics")
"""What else is in the folder of a server."""
_BUSY_SECONDS = 30
_SETTLED_NS = 1_000_000_000
"""After its end nothing is added to a job any more."""


class JobFolder:
    """All jobs of a folder, and their pictures."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self.changed: dict[str, asyncio.Event] = {}
        """Of the jobs that this process does: set at their next news."""
        self.settled: dict[str, tuple[int, int, int]] = {}
        """Of jobs that ended a while ago, by name: when their folder was changed, when they ended, and their bytes. For whoever is `alone`."""
        self.open()

    def open(self) -> None:
        """Makes the folder, or takes what lies there, and the folder itself where nothing else does, away from all but its owner."""
        if not self.folder.is_dir():
            private.make_folder(self.folder)
        ours = self.names()
        for name in ours:
            if private.tighten(self.folder / name):
                with contextlib.suppress(OSError):
                    for path in (self.folder / name).iterdir():
                        private.tighten(path)
        with contextlib.suppress(OSError):  # a folder that is only to be read can still show its jobs
            private.open_file(self.folder / _DOOR, "a").close()
            private.tighten(self.folder / ".lock")
        if set(os.listdir(self.folder)) <= {*_OURS, *ours}:
            private.tighten(self.folder)

    def names(self) -> list[str]:
        """Of the folders that are named as jobs."""
        with os.scandir(self.folder) as found:
            settled = self.settled
            return [one.name for one in found if one.name in settled or (_ID.fullmatch(one.name) and one.is_dir(follow_symlinks=False))]

    def get(self, name: str) -> BackgroundJob:
        """The job of that name. ApiError 404 where there is none."""
        job = BackgroundJob(self.folder / name)
        if not _ID.fullmatch(name) or job.known() is None:
            raise unknown()
        return job

    def shown(self, job: BackgroundJob) -> dict[str, Any]:
        """A job's state as clients see it."""
        state = job.state()
        if state["status"] == "in_progress":
            news = next((one for one in reversed(job.events(0)) if "steps" in one and "step" in one), None)
            state = {**state, "progress": {"step": news["step"], "steps": news["steps"]}} if news else state
        return public(state)

    def all(self) -> list[BackgroundJob]:
        """Newest first."""
        found: list[tuple[float, BackgroundJob]] = []
        for name in self.names():
            with contextlib.suppress(OSError):
                found.append(((self.folder / name / "work.npz").stat().st_mtime, BackgroundJob(self.folder / name)))
        return [job for _, job in sorted(found, key=lambda one: (one[0], one[1].id), reverse=True)]

    def tell(self, job: BackgroundJob, kind: str, **values: Any) -> None:
        """Adds news to a job."""
        job.tell(kind, **values)
        self.notify(job)

    def notify(self, job: BackgroundJob) -> None:
        """Wakes those who follow a job."""
        changed = self.changed.get(job.id)
        if changed is not None:
            self.changed[job.id] = asyncio.Event()
            changed.set()

    async def follow(self, job: BackgroundJob, after: int) -> AsyncGenerator[dict[str, Any], None]:
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

    async def ended(self, job: BackgroundJob) -> dict[str, Any]:
        """The state of a job once it is over."""
        async for _ in self.follow(job, len(job.events(0))):
            pass
        return job.state()

    def file(self, name: str) -> bytes:
        """A picture by the last part of its address. ApiError 404 where there is none."""
        found = _FILE.fullmatch(name)
        content = BackgroundJob(self.folder / found[1]).picture(f"result-{int(found[2])}") if found else None
        if content is None:
            raise ApiError(404, "there is no such file; the oldest are deleted as new ones come", code="not_found")
        return content

    def make_room(self) -> None:
        """Deletes the oldest jobs that are over until the others keep within the budget."""
        with self.alone():
            used, over = self.usage()
            self.delete_oldest(over, used - self.limit_bytes)

    def forget_changed(self) -> None:
        """Takes as unknown again what is another job by now, which came by the same key, or has other files."""
        with self.alone():
            self.settled = {name: known for name, known in self.settled.items() if known[0] == self.changed_ns(name)}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else makes or takes room meanwhile, in whatever process."""
        with locked(self.folder / _DOOR):
            yield

    def claim(self, size: int) -> None:
        """Makes room for so many bytes, for whoever is `alone`. ApiError 507 where waiting and running jobs leave too little, or there is none."""
        used, over = self.usage()
        held = used - sum(job_bytes for _, job_bytes, _ in over)
        if size > self.limit_bytes:
            message = (
                f"this job takes {size:,} bytes, and all together have {self.limit_bytes:,}; ask for less, or start the server with more `jobs_bytes`"
            )
            raise ApiError(507, message, code="job_too_large")
        lacking = held + size - self.limit_bytes
        if lacking <= 0:
            lacking = self.delete_oldest(over, used + size - self.limit_bytes)
        if lacking > 0:
            message = f"jobs that wait or run leave {max(0, self.limit_bytes - held):,} bytes of `jobs_bytes`, and this one takes {size:,}"
            raise busy(507, f"{message}; try again once some are over, or delete one", _BUSY_SECONDS, "jobs_full")

    def usage(self) -> tuple[int, list[tuple[int, int, str]]]:
        """Bytes of all jobs; and those that are over: when, in nanoseconds, how many bytes, and the name.

        Those that are known to have ended are not looked at again here: there may be many thousands.
        """
        total, settled, over = 0, dict[str, tuple[int, int, int]](), []
        for name in self.names():
            known = self.settled.get(name)
            if known is None:
                job, changed = BackgroundJob(self.folder / name), self.changed_ns(name)
                ended, size = job.ended_ns(), job.size()
                if ended is not None and time.time_ns() - ended > _SETTLED_NS:
                    settled[name] = changed, ended, size
            else:
                settled[name], (_, ended, size) = known, known
            if ended is not None:
                over.append((ended, size, name))
            total += size
        self.settled = settled
        return total, over

    def changed_ns(self, name: str) -> int:
        """When something came into a job's folder, or was taken out of it; 0 where there is none."""
        with contextlib.suppress(OSError):
            return (self.folder / name).stat().st_mtime_ns
        return 0

    def delete_oldest(self, over: list[tuple[int, int, str]], excess: int) -> int:
        """Deletes of jobs that are over those that ended first, until as many bytes are free; the bytes that are still lacking."""
        for _, size, name in sorted(over) if excess > 0 else ():
            if excess <= 0:
                break
            job = BackgroundJob(self.folder / name)
            if job.ended_ns() is not None:  # and not one of the same name that came since
                job.remove()
                excess -= size - job.size()
        return excess
