"""Saving beside training: the steps stand still for a copy of what is saved, and go on while it is written, hashed and sealed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genlib import checkpoint, distributed
from genlib.checkpoint import History, Manifest, Shard, Snapshot, StoredHistory
from genlib.distributed import Sideline
from genlib.engine.ema import Ema
from genlib.engine.host_memory import HostCopy
from genlib.engine.iterate_average import IterateAverage
from genlib.engine.listener import Evaluated, Listener
from genlib.engine.report import keep_rows
from genlib.engine.strategy import Strategy
from genlib.engine.timeline import Timeline
from genlib.storage import Held, StorageError, file_system, lacks_room

_MOST_FAILED = 3
_SAY_SECONDS, _CLOSE_SECONDS = 30.0, 60.0
"""A wait is said after so long; a run that ends by an error gives a save that is under way so long to end."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A save that was begun, and what the listener is told of it once it is sealed."""

    row: dict[str, Any]
    evaluated: Evaluated | None
    writing: Writing


class Saver:
    """Saves checkpoints of a run, one at a time; every rank has one and calls it after the same steps.

    held: the folders of the run, of which `folder` is where its checkpoints lie; `keep` of them stay.
    """

    def __init__(
        self, folder: Path, strategy: Strategy, average: Ema | IterateAverage | None, *, history: History | StoredHistory, keep: int, held: Held,
        listener: Listener, timeline: Timeline,
    ) -> None:  # fmt: skip
        self.folder, self.strategy, self.average, self.history, self.keep = folder, strategy, average, history, keep
        self.held, self.listener, self.timeline = held, listener, timeline
        self.stored = history if isinstance(history, StoredHistory) else None
        self.ranks, self.copy, self.failed = Sideline(), HostCopy(strategy.device), 0
        self.under_way: _UnderWay | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Where the run has failed, what is under way may come to its end, and ranks that are lost are not waited for."""
        if self.under_way:
            self.under_way.writing.thread.join(_CLOSE_SECONDS)
        if kind is None:
            distributed.barrier()  # who leaves first would close connections that another still uses
            self.ranks.close()

    @property
    def idle(self) -> bool:
        """Whether nothing is being written on this rank."""
        return self.under_way is None or not self.under_way.writing.thread.is_alive()

    def save(self, manifest: Manifest, row: dict[str, Any], evaluated: Evaluated | None, rows: str) -> None:
        """Copies what the checkpoint is made of and begins to write it; first the one before comes to its end.

        row, evaluated: what the listener is told; rows: of metrics that have no other place yet.
        """
        self.settle()
        begin = time.perf_counter()
        self.held.check()
        writing = Writing(self.folder, self.snapshot(manifest, rows), self.ranks, self.prune, self.stored)
        self.under_way = _UnderWay(row, evaluated, writing)
        writing.thread.start()
        self.timeline.add("save", manifest.step, time.perf_counter() - begin)

    def snapshot(self, manifest: Manifest, rows: str) -> Snapshot:
        """This rank's part as it is now."""
        weights, averages, state = live_parts(self.strategy, self.average)
        copies = self.copy.of([*weights, *averages, *state])
        first, second = len(weights), len(weights) + len(averages)
        return Snapshot(
            manifest,
            self.strategy.whole_tensors(),
            copies[:first],
            copies[first:second] if self.average else None,
            copies[second:],
            lambda folder: keep_rows(folder, rows) if rows else None,
        )

    def settle(self) -> Path | None:
        """Ends the save that is under way, if one is: the checkpoint, of which the listener hears, or None where it could not be written.

        That costs a checkpoint and not the run, until several have failed in a row: then StorageError.
        """
        if (ended := self.under_way) is None:
            return None
        begin = time.perf_counter()
        try:
            folder = ended.writing.wait()
        except OSError as error:
            self.under_way = None
            self.held.check()
            self.failed += 1
            full = not self.stored or lacks_room(error)
            said = f"{error}; {file_system(self.folder)}" if full else str(error)
            if self.failed >= _MOST_FAILED:
                way = "make room there" if full else "see to the store"
                raise StorageError(f"{said}; {self.failed} saves in a row failed: {way}, then the same command goes on") from None
            if not self.ranks.rank:
                print(f"training goes on without it: {said}", flush=True)
            return None
        self.under_way, self.failed = None, 0
        self.timeline.add("seal", ended.row["step"], ended.writing.seconds, waited=round(time.perf_counter() - begin, 4))
        self.listener.on_checkpoint(folder, {**ended.row, "seal_seconds": ended.writing.seconds}, ended.evaluated)
        return folder

    def prune(self, saved: Path, manifest: Manifest) -> None:
        """Deletes old checkpoints; where that cannot be, they stay, as all ranks have the new one."""
        try:
            self.history.prune(self.keep, saved, manifest)
        except OSError as error:
            print(f"older checkpoints than {saved.name} stay: {error}", flush=True)


def live_parts(strategy: Strategy, average: Ema | IterateAverage | None) -> tuple[list[Shard], list[Shard], list[Shard]]:
    """What this rank saves: of the weights, of the averaged ones where there are any, and of the optimizers' state."""
    weights = list(strategy.task_shards())
    state = [_share_of(shard) if shard.shared else shard for shard in strategy.optimizer_shards() if shard.mine]
    return weights, list(average.task_shards(weights)) if average else [], [shard for shard in state if shard.tensor.numel()]


def _share_of(shard: Shard) -> Shard:
    low, high = distributed.share(shard.tensor.numel(), distributed.rank(), distributed.world_size())
    return Shard(shard.name, shard.offset + low, shard.tensor[low:high])


class Writing:
    """A thread that writes a snapshot, with those of the other ranks; `sealed` is called in it on rank 0 at the end."""

    def __init__(
        self, folder: Path, snapshot: Snapshot, ranks: Sideline, sealed: Callable[[Path, Manifest], None], stored: StoredHistory | None = None
    ) -> None:
        self.folder, self.snapshot, self.ranks, self.sealed, self.stored = folder, snapshot, ranks, sealed, stored
        self.where = stored.store if stored else folder
        self.seconds = 0.0
        """From its begin to the seal."""
        self._saved: Path | None = None
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="saver", daemon=True)  # a store that hangs keeps no process

    def _run(self) -> None:
        begin = time.perf_counter()
        try:
            saved, manifest = checkpoint.save(self.folder, self.snapshot, self.ranks, self.stored)
            self.seconds = time.perf_counter() - begin
            if not self.ranks.rank:
                self.sealed(saved, manifest)
            self._saved = saved
        except BaseException as error:  # raised in the thread that waits
            self._error = error

    def wait(self) -> Path:
        """The checkpoint, once it is sealed; raises what `checkpoint.save` raised, on all ranks the same."""
        self.thread.join(_SAY_SECONDS)
        if self.thread.is_alive() and not self.ranks.rank:
            step = self.snapshot.manifest.step
            print(
                f"the steps wait for the checkpoint of step {step}, which is still being written to {self.where}",
                flush=True,
            )
        self.thread.join()
        if self._error is not None:
            raise self._error
        assert self._saved is not None
        return self._saved
