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
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from genlib.data.files import write_atomically
from serve.backend import Backend
from serve.job import ENDED, Job, public
from serve.job_folder import JobFolder
from serve.observability import Metrics
from serve.options import ServeOptions
from serve.problem import Problem, as_problem, busy
from serve.running import News, news_of
from serve.work import Work, from_bytes, to_bytes

LOG = logging.getLogger("serve.jobs")
_ATTEMPTS = 3
"""Times that a job is taken up again after its process died: it may be why."""
_ADOPT_SECONDS = 5.0


class Jobs(JobFolder):
    """The jobs of a folder, some of which this process does."""

    def __init__(self, backend: Backend, metrics: Metrics, options: ServeOptions) -> None:
        self.backend, self.metrics, self.options = backend, metrics, options
        self._temporary = None if options.jobs_folder else tempfile.TemporaryDirectory(prefix="genlib-jobs-")
        super().__init__(options.jobs_folder or Path(self._temporary.name), options.jobs_bytes)  # type: ignore[union-attr]
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.room = asyncio.Semaphore(options.jobs_running)

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
            self.notify(job)
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
                    state = job.state()
                    if state["status"] not in ENDED:
                        job.update(status="queued", attempts=max(0, state["attempts"] - 1))
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
        self.tell(job, "job.started", attempt=state["attempts"] + 1)
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
            self.tell(job, f"{work.event}.progress", **news.values)
        elif news.kind == "partial_image":
            name = f"partial-{news.values['partial_image_index']}-{news.values['index']}"
            await asyncio.to_thread(write_atomically, job.folder / f"{name}.png", news.image)
            self.tell(job, f"{work.event}.partial_image", picture=name, **news.values)
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
            self.tell(job, f"{work.event}.completed", picture=f"result-{number}", **rest, **document["data"][number])
        self._end(job, "completed", result=document)
        await asyncio.to_thread(self.make_room)

    def _end(self, job: Job, status: str, **values: Any) -> None:
        with contextlib.suppress(Problem, OSError):  # it may be deleted by now
            steps = job.state()["progress"]["steps"]
            progress = {"progress": {"step": steps, "steps": steps}} if status == "completed" else {}
            job.update(status=status, completed_at=int(time.time()), **progress, **values)
            self.tell(job, f"job.{status}")

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
