"""A run in an object store: `--run-dir s3://BUCKET/runs/NAME`, or GENLIB_RUNS=s3://BUCKET/runs. No disk is shared by its nodes.

Every node works in a folder of its own, at a path that follows from the address, and what the run has is in the store: checkpoints are brought up
beside the steps (`genlib.checkpoint.stored`), all else by `jobs.run_files`. Credentials are those that the store's own tools find.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genlib import distributed
from genlib.checkpoint import Mirror, note_newest, sealed
from genlib.checkpoint.place import place_of
from genlib.files import cache_folder
from genlib.recipe import Stage
from genlib.remote.lease import Lease, LeaseHeld
from genlib.remote.store_folder import StoreFolder, checked_address, is_address
from genlib.storage import StorageError
from jobs.run_files import RunFiles, of_data, of_driver, of_rank_0
from jobs.run_folder import ANOTHER
from jobs.undo import has_begun

PUSH_SECONDS = 30.0
"""From one time that the driver brings up its log to the next; a killed driver's last lines are lost."""


def run_address(name: str, run_dir: str, default: str) -> str:
    """The address of the run in a store; empty where it is on a disk, or `run_folder` has to say what is wrong. ValueError for a wrong address."""
    if run_dir:
        return checked_address(run_dir) if is_address(run_dir) and not name else ""
    root, name = os.environ.get("GENLIB_RUNS", ""), name or default
    return checked_address(f"{root.rstrip('/')}/{name}") if is_address(root) and "/" not in name else ""


def working_folder(address: str) -> Path:
    """Where a node works for the run at an address: a function of the address alone."""
    return cache_folder() / "runs" / hashlib.sha256(address.encode()).hexdigest()[:16] / address.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class StoredJob:
    """What the driver tells its workers of a run in a store."""

    address: str
    mailbox: Any
    """See `jobs.links`."""
    forget: tuple[str, ...] = ()
    """Final scores that the run takes back, as it is to train longer or under other settings."""


class DriverStore:
    """The driver's side, while it holds the run."""

    def __init__(self, address: str, run: Path) -> None:
        self.address, self.run, self.store = address, run, StoreFolder(address)
        self.files = RunFiles(self.store, run, of_driver)
        self.on_lost: Callable[[], None] = lambda: None
        self.begun = False
        self.scores: set[str] = set()
        """Final scores that were in the store when the launch began."""
        self.forget: tuple[str, ...] = ()

    def pull(self) -> None:
        """Makes the run's folder tell what the store has, but for the weights of checkpoints."""
        files = self.store.files()
        self.files.pull(files, also=of_rank_0)
        self.scores = {name for name in files if name.rpartition("/")[2] == "metrics.json" and name.count("/") <= 1}
        folders = {name.partition("checkpoints/")[0] for name in files if "checkpoints" in name.split("/")[:2]}
        folders |= {f"{path.parent.relative_to(self.run)}/".removeprefix("./") for path in self.run.glob("*/checkpoints")}
        for below in folders | {""}:
            begin = f"{below}checkpoints/"
            names = sealed(name.removeprefix(begin) for name in files if name.startswith(begin))
            note_newest(self.store / begin.rstrip("/"), names, self.run / begin)

    def job(self, mailbox: Any) -> StoredJob:
        """For the workers, once the driver's part of the folder is as it is to be."""
        self.forget = tuple(sorted(name for name in self.scores if not (self.run / name).exists()))
        return StoredJob(self.address, mailbox, self.forget)

    @contextmanager
    def brought_up(self) -> Iterator[None]:
        """Inside, what workers have to know of the samples is in the store; and once the run has begun all that the driver writes.

        A launch that does not begin takes back what it brought.
        """
        there = set(self.store.files())
        new = [name for name in self.files.push(of_data) if name not in there]
        over = threading.Event()
        thread = threading.Thread(target=self._push_again, args=(over,), name="run files", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.begun = has_begun(self.run)
            if not self.begun:
                with suppress(OSError):
                    self.store.delete(new)

    def _push_again(self, over: threading.Event) -> None:
        pause = 1.0  # run.json goes up as soon as the run has begun
        while not over.wait(pause):
            if has_begun(self.run):
                pause = PUSH_SECONDS
                with suppress(OSError):  # the next time
                    self.push()

    def push(self) -> None:
        """Brings up what the driver writes, once scores are gone that are not those of what run.json says. OSError where it cannot."""
        self.store.delete(self.forget)
        self.forget = ()
        self.files.push()

    def push_at_the_end(self) -> None:
        """The same where the run has begun; says what keeps it from that, as what counts is in the store by then."""
        try:
            if self.begun:
                self.push()
        except OSError as error:
            say(f"the last lines of the log are in {self.run} alone: {error}")

    def newest(self) -> str:
        """The newest checkpoint's name and stage for a person; empty where there is none, or the store does not answer."""
        with suppress(OSError):
            files = [name for name in self.store.files() if name.endswith("/manifest.json") and "/step_" in f"/{name}"]
            if files:
                return max(files, key=lambda name: name.rpartition("step_")[2]).removesuffix("/manifest.json")
        return ""


def say(text: str) -> None:
    """Prints a line."""
    print(text, flush=True)


@contextmanager
def held(address: str, run: Path) -> Iterator[DriverStore | None]:
    """Inside, this process is the one that works on the run at the address, and `run` tells what the store has; None where it is on a disk.

    ValueError where another process works on it, or the store cannot be written; StorageError where another process has taken it over.
    """
    if not address:
        yield None
        return
    driver = DriverStore(address, run)
    try:
        with Lease(driver.store, say, lambda: driver.on_lost()) as lease:
            driver.pull()
            try:
                yield driver
            except ValueError as error:  # the way out is at the address, and not in this node's folder
                raise ValueError(str(error).replace(str(run), address)) from error
            finally:
                if lease.taken_by:
                    raise taken(driver, lease) from None
                driver.push_at_the_end()
    except LeaseHeld as error:
        raise ValueError(f"run {run.name} is running ({error}); wait for it, or {ANOTHER}") from None
    except OSError as error:
        if not str(error).startswith(address):
            raise
        if isinstance(error, FileNotFoundError | PermissionError):
            raise ValueError(f"the run cannot be kept in {error}") from None
        raise StorageError(f"{error}; see to the store, then the same command goes on") from None


def taken(driver: DriverStore, lease: Lease) -> StorageError:
    """What ends a run that somebody else goes on with, as this process was not heard of for too long."""
    return StorageError(f"run {driver.run.name} was taken over by {lease.taken_by}, as this launch was not heard of in {driver.store}")


@dataclass
class WorkerStore:
    """A worker's side."""

    store: StoreFolder
    run: Path
    files: RunFiles = field(init=False)

    def __post_init__(self) -> None:
        lead = distributed.rank() == 0
        own = f"log/worker_{distributed.rank():05d}.txt"
        self.files = RunFiles(self.store, self.run, of_rank_0 if lead else lambda name: name == own)

    def mirror(self, stages: Sequence[Stage], stage: Stage) -> Mirror:
        """Where the checkpoints of a stage are kept."""
        return Mirror(self.store if len(stages) == 1 else self.store / stage.name, self.push)

    def push(self) -> None:
        """Brings up what this rank writes beside checkpoints. OSError where it cannot."""
        self.files.push()


def open_on_worker(job: StoredJob) -> WorkerStore:
    """Makes this node's folder ready; all ranks call it together. OSError on every rank where it cannot be."""
    run = working_folder(job.address)
    place = place_of(run)
    worker, said = WorkerStore(StoreFolder(job.address), run), ""
    if place.lead:
        try:
            worker.files.pull(also=of_data)
            for name in job.forget:
                (run / name).unlink(missing_ok=True)
        except OSError as error:
            said = str(error)
    if problem := next(filter(None, distributed.all_gather_object(said)), ""):
        raise OSError(problem)
    return worker
