"""Jobs: work that goes on when its client goes away, and its pictures, on disk within a budget.

The process that does a job holds the file `lock` in its folder. Whoever serves the same folder can answer for any job; one whose lock
nobody holds is taken up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from genlib.data.files import write_atomically
from serve.backend import Backend
from serve.job import ENDED, Job, public, unknown
from serve.observability import Metrics
from serve.options import ServeOptions
from serve.problem import Problem, as_problem, busy
from serve.running import News, news_of
from serve.work import Work, from_bytes, to_bytes

LOG = logging.getLogger("serve.jobs")
_ID = re.compile(r"job_[0-9a-f]{32}")
_FILE = re.compile(r"(job_[0-9a-f]{32})-(\d{1,5})")
_ATTEMPTS = 3
"""Times that a job is taken up again after its process died: it may be why."""
_POLL_SECONDS = 0.25
"""Between looks at a job that another process does."""
_ADOPT_SECONDS = 5.0


class Jobs:
    """All jobs of a folder, and those among them that this process does."""

    def __init__(self, backend: Backend, metrics: Metrics, options: ServeOptions) -> None:
        self.backend, self.metrics, self.options = backend, metrics, options
        self._temporary = None if options.jobs_folder else tempfile.TemporaryDirectory(prefix="genlib-jobs-")
        self.folder = options.jobs_folder or Path(self._temporary.name)  # type: ignore[union-attr]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.changed: dict[str, asyncio.Event] = {}
        self.room = asyncio.Semaphore(options.jobs_running)

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

    def start(self, work: Work, name: str, fingerprint: str) -> Job:
        """A new job, under way; the job that is there where it is of the same request. Problem where it is not, or too many wait."""
        job = Job(self.folder / name)
        if (job.folder / "state.json").is_file():
            if job.state()["fingerprint"] != fingerprint:
                raise Problem(409, "this Idempotency-Key came with another request before; take a new one", code="idempotency_key_reused")
            return job
        if len(self.tasks) >= self.options.jobs_waiting:
            raise busy(429, f"{len(self.tasks)} jobs are waiting, which is the limit; try again", 30, "overloaded")
        state = {
            "id": name, "object": "job", "status": "queued", "created_at": int(time.time()), "completed_at": None, "endpoint": work.endpoint,
            "model": work.model, "progress": {"step": 0, "steps": work.steps}, "request": work.request, "error": None, "result": None,
            "fingerprint": fingerprint, "attempts": 0,
        }  # fmt: skip
        write_atomically(job.folder / "work.npz", to_bytes(work))
        write_atomically(job.folder / "state.json", json.dumps(state).encode())
        self.adopt(job)
        return job

    def adopt(self, job: Job) -> None:
        """Does a job, unless another process has its lock."""
        lock = (job.folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return
        self.changed[job.id] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._do(job))
        self.tasks[job.id] = task

        def over(_: asyncio.Task[None]) -> None:
            lock.close()
            self.tasks.pop(job.id, None)
            self._notify(job)
            self.changed.pop(job.id, None)

        task.add_done_callback(over)

    async def keep(self) -> None:
        """Takes up jobs that nobody does any more, for as long as it runs."""
        while True:
            for job in reversed(self.all()):
                with contextlib.suppress(Problem, OSError):
                    if job.id not in self.tasks and job.state()["status"] not in ENDED:
                        self.adopt(job)
            await asyncio.sleep(_ADOPT_SECONDS)

    async def stop(self) -> None:
        """Lets go of all jobs; who serves the folder next takes them up."""
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._temporary:
            self._temporary.cleanup()

    async def _do(self, job: Job) -> None:
        """One job from where it is to its end."""
        try:
            async with self.room:
                await self._attempt(job)
        except asyncio.CancelledError:
            if not (job.folder / "cancel").exists():
                with contextlib.suppress(Problem, OSError):  # this process ends in order, which is no fault of the job's
                    job.update(status="queued", attempts=max(0, job.state()["attempts"] - 1))
                raise
            self.metrics.cancelled.labels("job").inc()
            self._end(job, "cancelled")
        except Exception as error:
            problem = as_problem(error)
            if problem is None:
                LOG.error("job %s failed", job.id, exc_info=error)
                problem = Problem(500, "the server failed; its log says why, under the job's id", code="internal_error")
            self._end(job, "failed", error=problem.body()["error"])
        finally:
            self.metrics.jobs.labels("running").set(max(0, len(self.tasks) - 1))

    async def _attempt(self, job: Job) -> None:
        """Runs the work; waits and tries again where the models are busy or away."""
        state = job.state()
        if (job.folder / "cancel").exists():
            return self._end(job, "cancelled")
        if state["attempts"] >= _ATTEMPTS:
            raise Problem(500, f"the server died {_ATTEMPTS} times while it did this job; it is not tried again", code="gave_up")
        job.update(status="in_progress", attempts=state["attempts"] + 1)
        self._tell(job, "job.started", attempt=state["attempts"] + 1)
        work = from_bytes((job.folder / "work.npz").read_bytes())
        try:
            async with asyncio.timeout(self.options.job_timeout_seconds):
                while (wait_seconds := await self._once(job, work)) is not None:
                    await asyncio.sleep(wait_seconds)
        except TimeoutError as error:
            raise as_problem(error) or error from None

    async def _once(self, job: Job, work: Work) -> float | None:
        """Runs the work to its end; or the seconds after which to try again."""
        try:
            async with contextlib.aclosing(news_of(self.backend, self.metrics, work)) as news:
                async for one in news:
                    await self._happened(job, work, one)
        except Problem as problem:
            if problem.status not in (429, 503):
                raise
            return float(problem.headers.get("Retry-After", 1))
        return None

    async def _happened(self, job: Job, work: Work, news: News) -> None:
        """Writes down news; raises CancelledError where the job is to stop."""
        if (job.folder / "cancel").exists():
            raise asyncio.CancelledError
        if news.kind == "progress":
            self._tell(job, f"{work.event}.progress", **news.values)
        elif news.kind == "partial_image":
            name = f"partial-{news.values['partial_image_index']}-{news.values['index']}"
            await asyncio.to_thread(write_atomically, job.folder / f"{name}.png", news.image)
            self._tell(job, f"{work.event}.partial_image", picture=name, **news.values)
        else:
            assert news.answer is not None
            await self._completed(job, work, news)

    async def _completed(self, job: Job, work: Work, news: News) -> None:
        answer = news.answer
        assert answer is not None
        for number, image in enumerate(answer.images):
            await asyncio.to_thread(write_atomically, job.folder / f"result-{number}.png", image)
        document = answer.with_addresses([f"/v1/files/{job.id}-{number}" for number in range(len(answer.images))])
        for number in range(len(answer.images)):
            rest = {key: value for key, value in document.items() if key not in ("data", "created")}
            self._tell(job, f"{work.event}.completed", picture=f"result-{number}", **rest, **document["data"][number])
        self._end(job, "completed", result=document)
        await asyncio.to_thread(self.make_room)

    def _end(self, job: Job, status: str, **values: Any) -> None:
        with contextlib.suppress(Problem, OSError):  # it may be deleted by now
            steps = job.state()["progress"]["steps"]
            progress = {"progress": {"step": steps, "steps": steps}} if status == "completed" else {}
            job.update(status=status, completed_at=int(time.time()), **progress, **values)
            self._tell(job, f"job.{status}")

    def _tell(self, job: Job, kind: str, **values: Any) -> None:
        job.tell(kind, **values)
        self._notify(job)

    def _notify(self, job: Job) -> None:
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

    async def delete(self, job: Job) -> dict[str, Any]:
        """Stops a job that is under way; removes one that is over, with its pictures. Its last state, as clients see it."""
        state = job.state()
        if state["status"] in ENDED:
            shutil.rmtree(job.folder, ignore_errors=True)
            return {**public(state), "deleted": True}
        (job.folder / "cancel").touch()
        task = self.tasks.get(job.id)
        if task:
            task.cancel()
            await asyncio.wait({task})
            if job.state()["status"] not in ENDED:  # it had not begun
                self._end(job, "cancelled")
        return self.shown(job)

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
        excess = sum(size for _, size in sizes) - self.options.jobs_bytes
        for job, size in reversed(sizes[1:]):
            if excess <= 0:
                return
            with contextlib.suppress(Problem):
                if job.state()["status"] in ENDED:
                    shutil.rmtree(job.folder, ignore_errors=True)
                    excess -= size
