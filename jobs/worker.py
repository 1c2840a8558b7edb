"""What one Ray Train worker does: see the run's folder, open the data, fit each stage, evaluate it, report."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import UserCallback
from ray.train.torch import get_device

from genlib import distributed
from genlib.engine.fit import fit
from genlib.engine.listener import Evaluated, Listener
from genlib.engine.report import Row
from genlib.engine.stop import Interrupted
from genlib.engine.timeline import Timeline
from genlib.phases import phase, since_last
from genlib.plurals import counted
from genlib.recipe import Stage
from genlib.storage import Held, StorageError, lacks_room, stopped
from jobs.evaluate import evaluate, gather
from jobs.launches import note_data
from jobs.links import ActorLink, FolderLink, Link
from jobs.log_file import LogFile, log_path
from jobs.out_of_memory import OutOfMemory, out_of_memory, short_of_memory
from jobs.pulse import Heart
from jobs.run_folder import only_one, set_folder, stage_folder
from jobs.run_metrics import RunMetrics
from jobs.run_store import StoredJob, WorkerStore, open_on_worker
from jobs.scoring import Scorer, Scoring

FINAL = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError, OutOfMemory, StorageError, TypeError,
    ValueError,
)  # fmt: skip
"""What would happen again: not retried. A lost worker, a broken connection or a file system's hiccup is."""


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """What the driver hands to every worker."""

    recipe: str
    stages: tuple[Stage, ...]
    run: Path
    token: str
    """What the driver wrote into the run's folder, for workers to find there."""
    control: Path
    """Where the driver asks to stop, see `jobs.control`."""
    upstream: Mapping[str, Path] = field(default_factory=dict)
    """Final checkpoints of stages that are no part of the run, by role: what a trial of a search needs."""
    scores: bool = True
    """Whether a trained stage is scored and exported."""
    scoring: Scoring | None = None
    """How the last stage's pictures are scored while it trains."""
    stall_seconds: float = 300.0
    """As of `RunOptions`."""
    stored: StoredJob | None = None
    """Of a run in a store, for which every node has a folder of its own in place of `run`."""

    @property
    def link(self) -> Link:
        """To the driver."""
        return ActorLink(self.stored.mailbox) if self.stored else FolderLink(self.run, self.control)


def work(config: Mapping[str, Any]) -> None:
    """Ray Train's training function, called in every worker; a restarted worker starts here again and goes on from the newest checkpoint."""
    job: WorkerJob = config["work"]
    context, device = ray.train.get_context(), get_device()
    store = open_on_worker(job.stored) if job.stored else None
    if store:
        job = replace(job, run=store.run)
    else:
        see_run_folder(job)
    silent = quieten(job)
    if context.get_world_rank() == 0:
        phase(workers_in_words(context.get_world_size(), device), seconds=silent)
    if device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # A killed driver's workers may live a moment longer: rank 0 waits for the last one's.
    alone = only_one(job.run, "worker_lock", wait_seconds=60) if context.get_world_rank() == 0 else nullcontext()
    held = Held(job.run)
    try:
        with alone, Heart(job.link, job.run, job.stall_seconds) as heart:
            train(job, device, heart, store)
    except Interrupted as ended:
        if job.link.move_asked():
            raise Moved(ended.step) from None
    except Exception as error:
        if not refuses(error, job.link):
            job.link.trouble(f"{datetime.now():%F %T} worker {context.get_world_rank()} on {socket.gethostname()}\n{traceback.format_exc()}\n")
        held.check()  # whatever it was that a folder which is gone brought about
        if lacks_room(error):
            raise stopped(error, job.run) from None
        raise
    finally:
        if store and job.link.has_begun():
            with suppress(OSError):  # what counts was brought up before
                store.push()
        job.link.flush()


def train(job: WorkerJob, device: torch.device, heart: Heart, store: WorkerStore | None = None) -> None:
    """Every stage in turn: fit on all ranks, then rank 0 evaluates. Interrupted where the driver asks to stop."""
    from genlib.data.source import open_source

    finals: dict[str, Path] = {}
    for stage in job.stages:
        folder = stage_folder(job.run, job.stages, stage)
        kept = set_folder(job.run, job.stages, stage)
        source = open_source(stage.data, kept, needs=stage.task.fields)
        upstream = {**job.upstream, **{role: finals[name] for role, name in stage.needs.items()}}
        scorer = Scorer(job.scoring, stage, folder, kept, device) if job.scoring and stage is job.stages[-1] else None
        with RunMetrics(job.run, stage.name, folder) as metrics:
            began = partial(note_data, folder, source.described)
            listener = ToRay(job, stage.train.steps, metrics, heart, source.failures.total, scorer, began)
            heart.begin()
            try:
                finals[stage.name] = fit(
                    stage, recipe=job.recipe, source=source, folder=folder, device=device, upstream=upstream, listener=listener,
                    mirror=store.mirror(job.stages, stage) if store else None,
                )  # fmt: skip
            except (MemoryError, RuntimeError) as error:
                if told := out_of_memory(error, stage.train):
                    raise told from error
                raise
        if distributed.broadcast_object(job.link.stop_asked()):
            raise Interrupted(stage.train.steps, stage.train.steps, finals[stage.name])
        if job.scores and distributed.rank() == 0 and not (folder / "metrics.json").exists():
            job.link.accept()
            print("evaluating", flush=True)
            since_last()
            # scores take means over ranks, of which the others wait at the barrier below
            with Timeline(folder).timed("scores", stage.train.steps), distributed.alone():
                evaluate(finals[stage.name], source, folder, device)
            phase("scores and export")
            if store:
                store.push()
        distributed.barrier()
    if job.scores and distributed.rank() == 0 and len(job.stages) > 1:
        job.link.accept()
        gather(job.run, [stage.name for stage in job.stages])
        if store:
            store.push()


class ToRay(Listener):
    """Tells Ray Train what every checkpoint reached; of the checkpoint itself nothing, as the engine's folder is the truth.

    For one that it is told of, Ray Train writes a list into the run's folder, and ends where that is full.
    """

    def __init__(
        self, job: WorkerJob, steps: int, metrics: RunMetrics, heart: Heart, corrupt: Callable[[], int], scorer: Scorer | None,
        begun: Callable[[], None],
    ) -> None:  # fmt: skip
        """`steps` are the stage's; `corrupt` counts samples that could not be read; `begun` is called on rank 0 when the first step is through."""
        self.steps, self.metrics, self.heart, self.corrupt, self.begun = steps, metrics, heart, corrupt, begun
        self.link, self.scorer, self.lead = job.link, scorer, distributed.rank() == 0

    def on_start(self) -> None:
        if self.lead:
            self.link.accept()
            self.begun()

    def on_step(self, done: int) -> None:
        self.heart.on_step(done)

    def on_log(self, row: Row) -> None:
        self.metrics.line(row, self.steps)

    def on_times(self, seconds: Mapping[str, float], steps: int) -> None:
        self.metrics.times(seconds, steps)
        self.metrics.corrupt(self.corrupt())
        self.heart.own = (seconds["data_time"] + seconds["forward_time"]) / steps

    def stop_asked(self) -> bool:
        return self.lead and (self.link.stop_asked() or self.link.move_asked())

    def on_checkpoint(self, folder: Path, row: Row, evaluated: Evaluated | None) -> None:
        values = {name: value for name, value in row.items() if isinstance(value, int | float)}
        if self.lead:
            self.metrics.checkpoint(row["step"], row["seal_seconds"])
        ray.train.report(values | ({**evaluated.values, "trouble": evaluated.trouble} if evaluated else {}))
        if self.scorer:
            self.scorer.on_checkpoint(folder, row)


class Retries(UserCallback):
    """In Ray Train's controller: says that a run goes on, and stops it where the same error would come again."""

    def __init__(self, retries: int, run: Path, link: Link) -> None:
        self.retries, self.run, self.link, self.seen = retries, run, link, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        causes = [original(error) for error in worker_exceptions.values()]
        if any(isinstance(cause, Moved) for cause in causes):
            return
        for cause in causes:
            if isinstance(cause, FINAL):
                raise Refusal(type(cause).__name__, str(cause))
        self.seen += 1
        if self.seen <= self.retries or self.retries < 0:
            RunMetrics(self.run).add("genlib_train_restarts_total", 1)  # kept here it would have to be picklable
            ranks = ", ".join(map(str, sorted(worker_exceptions)))
            memory = short_of_memory(self.link.pulses(1 + max(worker_exceptions)), worker_exceptions)
            known = f" ({memory})" if memory else ""
            words = f"lost worker {ranks}{known}; the run goes on from its newest checkpoint (retry {self.seen} of {self.retries})"
            self.link.tell("lost", words)


def refuses(error: Exception, link: Link) -> bool:
    """Whether it is a sentence of ours on what was asked for, before the first step: there is nothing more to know of it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return isinstance(error, ValueError) and package in ("genlib", "jobs") and not link.has_begun()


def original(error: Exception) -> Exception:
    """What a worker raised, out of what Ray Train wraps it in."""
    return getattr(error, "_base_exc", error)


class Moved(Exception):
    """Raised by workers that were asked to leave their places to others: after this step, of which there is a checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Refusal(Exception):
    """An error of a worker that no retry would cure: its type and its message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message


def see_run_folder(job: WorkerJob) -> None:
    """ValueError where this worker does not see the folder the driver made."""
    token = job.run / ".token"
    if not token.exists() or token.read_text() != job.token:
        raise ValueError(
            f"a worker on {socket.gethostname()} does not see the run's folder {job.run}; name one that all nodes mount "
            "(NFS, a mounted bucket) with --run-dir or GENLIB_RUNS, or a folder of an object store with --run-dir s3://BUCKET/runs/NAME"
        )


def workers_in_words(count: int, device: torch.device) -> str:
    """`2 workers on cpu`."""
    return f"{counted(count, 'worker')} on {device.type}"


def quieten(job: WorkerJob) -> float:
    """From here on what is printed goes to files: rank 0's lines to the run's log, which the driver follows; the rest to a file of this rank.

    Seconds since that log was opened by the driver, or last written to by workers that are lost.
    """
    rank = ray.train.get_context().get_world_rank()
    path = job.run / "log" / f"worker_{rank:05d}.txt"
    try:
        path.parent.mkdir(exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # no room for it now
        file = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)  # Ray Train logs every report
    logging.getLogger("genlib").setLevel(logging.WARNING)  # a cache that cannot be written, and the like
    sys.stdout = sys.stderr = LogFile(path) if rank else job.link.log()
    if job.stored:
        return 0.0
    try:
        return max(0.0, time.time() - log_path(job.run).stat().st_mtime)
    except OSError:
        return 0.0
