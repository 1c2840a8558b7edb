"""Jobs: work that goes on when its client goes away, and its pictures, on disk within a budget.

Whoever serves the same folder can answer for any job; one whose lock nobody holds is taken up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import IO, Any

from genlib.json_text import json_text
from genlib.plurals import counted
from serve import private
from serve.api_error import ApiError, as_problem, busy
from serve.backend import Backend
from serve.background_jobs.folder import JobFolder
from serve.background_jobs.job import ENDED, BackgroundJob, public, writing
from serve.inference.execution import ProgressUpdate, progress_of
from serve.inference.request import InferenceRequest, from_bytes, to_bytes
from serve.json_bytes import json_bytes
from serve.observability import Metrics
from serve.options import ServeOptions

LOG = logging.getLogger("serve.background_jobs.jobs")
_ATTEMPTS = 3
"""Times that a job is taken up again after its process died: it may be why."""
_ADOPT_SECONDS = 5.0
_ANEW_TURNS = 12
_MARGIN = 3
"""Times a job's state that are kept free for it: its end and its last news have most of it again."""


class Jobs(JobFolder):
    """The jobs of a folder, some of which this process does."""

    def __init__(self, backend: Backend, metrics: Metrics, options: ServeOptions) -> None:
        self.backend, self.metrics, self.options = backend, metrics, options
        self._temporary = None if options.jobs_folder else tempfile.TemporaryDirectory(prefix="genlib-jobs-")
        super().__init__(options.jobs_folder or Path(self._temporary.name), options.jobs_bytes)  # type: ignore[union-attr]
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.making_room: set[asyncio.Future[None]] = set()
        self.room = asyncio.Semaphore(options.jobs_running)

    def start(self, work: InferenceRequest, name: str, fingerprint: str) -> BackgroundJob:
        """A new job, under way; the job that is there where it is of the same request. ApiError where it is not, or too many wait."""
        job = BackgroundJob(self.folder / name)
        state = job.known()
        if state is not None:
            if state["fingerprint"] != fingerprint:
                raise ApiError(409, "this Idempotency-Key came with another request before; take a new one", code="idempotency_key_reused")
            return job
        if len(self.tasks) >= self.options.jobs_waiting:
            raise busy(429, f"{counted(len(self.tasks), 'job is', 'jobs are')} waiting, which is the limit; try again", 30, "overloaded")
        state = {
            "id": name, "object": "job", "status": "queued", "created_at": int(time.time()), "completed_at": None, "endpoint": work.endpoint,
            "model": work.model, "progress": {"step": 0, "steps": work.steps}, "request": work.request, "error": None, "result": None,
            "fingerprint": fingerprint, "attempts": 0,
        }  # fmt: skip
        with writing():
            lock = self.place(job, to_bytes(work), json_text(state).encode())
        if lock is not None:
            self.begin(job, lock)
        return job

    def place(self, job: BackgroundJob, work: bytes, state: bytes) -> IO[Any] | None:
        """Puts a new job into its folder; its lock, None where another process did the same before. ApiError 507 where there is no room."""
        with self.alone():
            if job.known() is not None or job.held():
                return None
            job.remove()  # what is left of a damaged one of that name
            self.settled.pop(job.id, None)
            self.claim(len(work) + _MARGIN * len(state))
            try:
                private.make_folder(job.folder)
                lock = job.lock()
                job.write("work.npz", work)
                job.write("state.json", state)
            except BaseException:
                job.remove()
                raise
            return lock

    def adopt(self, job: BackgroundJob) -> None:
        """Does a job, unless another process has its lock."""
        if (lock := job.lock()) is not None:
            job.tidy()
            self.begin(job, lock)

    def begin(self, job: BackgroundJob, lock: IO[Any]) -> None:
        """Does a job whose lock this process holds."""
        changed = self.changed[job.id] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._do(job))
        self.tasks[job.id] = task

        def over(_: asyncio.Task[None]) -> None:
            lock.close()
            if self.tasks.get(job.id) is task:  # and not one of the same name that came after it was deleted
                del self.tasks[job.id]
                self.notify(job)
                self.changed.pop(job.id, None)
            changed.set()

        task.add_done_callback(over)

    async def recover_jobs(self) -> None:
        """Keeps within the budget, takes up jobs that nobody does any more, and stops those that are to stop, for as long as it runs."""
        for turn in count():
            if turn % _ANEW_TURNS == 0:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self.forget_changed)
            await self.tidy()
            for name, task in self.tasks.items():
                if BackgroundJob(self.folder / name).cancelled():  # by way of another process; most stop before, at their next news
                    task.cancel()
            settled = self.settled
            for job in reversed(self.all()):
                with contextlib.suppress(ApiError, OSError):
                    if job.id not in self.tasks and job.id not in settled and job.state()["status"] not in ENDED:
                        self.adopt(job)
            await asyncio.sleep(_ADOPT_SECONDS)

    async def tidy(self) -> None:
        """Makes room, beside the event loop; a folder that cannot be changed stays as it is."""
        making = asyncio.ensure_future(asyncio.to_thread(self.make_room))
        self.making_room.add(making)
        making.add_done_callback(self.making_room.discard)
        with contextlib.suppress(OSError):
            await asyncio.shield(making)

    async def stop(self) -> None:
        """Lets go of all jobs; who serves the folder next takes them up."""
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self.making_room, return_exceptions=True)  # a thread that makes room cannot be cancelled
        if self._temporary:
            self._temporary.cleanup()

    async def _do(self, job: BackgroundJob) -> None:
        """One job from where it is to its end."""
        try:
            async with self.room:
                await self._attempt(job)
        except asyncio.CancelledError:
            if not job.cancelled():
                with contextlib.suppress(ApiError, OSError):  # this process ends in order, which is no fault of the job's
                    if (state := job.state())["status"] not in ENDED:
                        job.update(status="queued", attempts=max(0, state["attempts"] - 1))
                raise
            self.metrics.cancelled.labels("job").inc()
            self._end(job, "cancelled")
        except Exception as error:
            problem = as_problem(error)
            if problem is None:
                LOG.error("job %s failed", job.id, exc_info=error)
                problem = ApiError(500, "the server failed; its log says why, under the job's id", code="internal_error")
            self._end(job, "failed", error=problem.body()["error"])
        finally:
            self.metrics.jobs.labels("running").set(max(0, len(self.tasks) - 1))
        await self.tidy()

    async def _attempt(self, job: BackgroundJob) -> None:
        """Runs the work; waits and tries again where the models are busy or away."""
        state = job.state()
        if state["status"] in ENDED:  # by another process, between the look at it and its lock
            return None
        if job.cancelled():
            return self._end(job, "cancelled")
        if state["attempts"] >= _ATTEMPTS:
            raise ApiError(500, f"the server died {_ATTEMPTS} times while it did this job; it is not tried again", code="gave_up")
        with writing():
            job.update(status="in_progress", attempts=state["attempts"] + 1)
            self.tell(job, "job.started", attempt=state["attempts"] + 1)
        work = from_bytes((job.folder / "work.npz").read_bytes())
        try:
            async with asyncio.timeout(self.options.job_timeout_seconds):
                while (wait_seconds := await self._once(job, work)) is not None:
                    await asyncio.sleep(wait_seconds)
        except TimeoutError:
            limit = self.options.job_timeout_seconds
            raise ApiError(504, f"the job took longer than the {limit:g} seconds that it may; ask for less", code="timeout") from None

    async def _once(self, job: BackgroundJob, work: InferenceRequest) -> float | None:
        """Runs the work to its end; or the seconds after which to try again."""
        try:
            async with contextlib.aclosing(progress_of(self.backend, self.metrics, work)) as news:
                async for one in news:
                    await self._happened(job, work, one)
        except ApiError as problem:
            if problem.status not in (429, 503):
                raise
            return float(problem.headers.get("Retry-After", 1))
        return None

    async def _happened(self, job: BackgroundJob, work: InferenceRequest, news: ProgressUpdate) -> None:
        """Writes down news; raises CancelledError where the job is to stop."""
        if job.cancelled():
            raise asyncio.CancelledError
        if news.kind == "progress":
            with contextlib.suppress(OSError):
                self.tell(job, f"{work.event}.progress", **news.values)
        elif news.kind == "partial_image":
            name = f"partial-{news.values['partial_image_index']}-{news.values['index']}"
            await asyncio.to_thread(self.store, job, {name: news.image}, 0)
            with writing():
                self.tell(job, f"{work.event}.partial_image", picture=name, **news.values)
        else:
            assert news.answer is not None
            await self._completed(job, work, news)

    async def _completed(self, job: BackgroundJob, work: InferenceRequest, news: ProgressUpdate) -> None:
        answer = news.answer
        assert answer is not None
        document = answer.with_addresses([f"/v1/files/{job.id}-{number}" for number in range(len(answer.images))])
        pictures = {f"result-{number}": image for number, image in enumerate(answer.images)}
        await asyncio.to_thread(self.store, job, pictures, _MARGIN * len(json_bytes(document)))
        rest = {key: value for key, value in document.items() if key not in ("data", "created")}
        with writing():
            for number, name in enumerate(pictures):
                self.tell(job, f"{work.event}.completed", picture=name, **rest, **document["data"][number])
        self._end(job, "completed", result=document)

    def store(self, job: BackgroundJob, pictures: dict[str, bytes], more: int) -> None:
        """Writes pictures by name, with room for so many bytes more. ApiError 507 where there is none, or nothing can be written."""
        with writing(), self.alone():
            self.claim(sum(map(len, pictures.values())) + more)
            for name, picture in pictures.items():
                job.write(f"{name}.png", picture)

    def _end(self, job: BackgroundJob, status: str, **values: Any) -> None:
        with contextlib.suppress(ApiError, OSError):  # it may be deleted by now
            steps = job.state()["progress"]["steps"]
            progress = {"progress": {"step": steps, "steps": steps}} if status == "completed" else {}
            job.update(status=status, completed_at=int(time.time()), **progress, **values)
            self.tell(job, f"job.{status}")

    async def delete(self, job: BackgroundJob) -> dict[str, Any]:
        """Stops a job that is under way; removes one that is over, with its pictures. Its last state, as clients see it."""
        state = job.state()
        if state["status"] in ENDED:
            job.remove()
            return {**public(state), "deleted": True}
        with writing():
            job.cancel()
        if task := self.tasks.get(job.id):
            task.cancel()
            await asyncio.wait({task})
            if job.state()["status"] not in ENDED:  # it had not begun
                self._end(job, "cancelled")
                await self.tidy()
        return self.shown(job)
