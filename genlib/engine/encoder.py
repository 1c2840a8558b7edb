"""Encoding ahead of the first step: the missing shards of an encoded set in rounds, one shard for each rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from genlib import distributed
from genlib.encoded_batch import encode
from genlib.engine.frozen import FrozenNetworks
from genlib.engine.prefetcher import Prefetcher
from genlib.plurals import counted
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import Batch, EncodedSet, UnreadableSample

_MOST_ROWS = 64
"""Samples that are encoded at once, where a rank's micro-batch has so many."""
_LINE_SECONDS = 5.0
"""Between lines of progress."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes the samples of shards with a task's frozen networks, where these are."""

    task: Task
    kept: EncodedSet
    rows: int
    """Samples at once."""

    def __call__(self, batch: Batch) -> Batch:
        """Values, `sample` and `failed`."""
        return {**encode(self.task, batch), "sample": batch["sample"], "failed": batch["failed"]}

    def decoded(self, shards: list[int], device: torch.device) -> Prefetcher:
        """Batches of the samples of some shards on a device, to which it brings the networks."""
        FrozenNetworks(self.task, device).bring()
        return Prefetcher(self.kept.decoded(shards, self.rows, self.task.transform(train=True)), self.rows, device)


def rows_at_once(stage: Stage, world: int) -> int:
    """Samples that are encoded at once: no more than each of so many ranks trains on at once, as more may not fit."""
    return max(1, min(_MOST_ROWS, stage.train.global_batch // stage.train.accumulation // world))


def encode_missing(encoder: Encoder, missing: list[int], device: torch.device, stop_asked: Callable[[], bool] = lambda: False) -> bool:
    """Encodes missing shards in rounds, one for each rank; False where a rank was asked to stop. What one rank raises, all raise.

    Ranks meet after each round: none waits for longer than a shard takes, or for one that failed.
    """
    if not missing:
        return True
    rank, world = distributed.rank(), distributed.world_size()
    mine, progress = missing[rank::world], EncodingProgress(encoder.kept, len(missing))
    batches = encoder.decoded(mine, device)
    made = map(encoder, batches)
    try:
        for number, first in enumerate(range(0, len(missing), world)):
            error = None
            try:
                for shard in mine[number : number + 1]:
                    encoder.kept.write(shard, made)
            except Exception as raised:
                error = raised
            if _together(error, stop_asked()):
                return False
            progress.add(min(world, len(missing) - first))
    finally:
        batches.close()
    return True


def _together(error: Exception | None, stop: bool) -> bool:
    """Whether any rank is to stop; raises what the first rank that failed raised."""
    for number, (raised, _) in enumerate(said := distributed.all_gather_object((_plain(error), stop))):
        if raised is not None:
            raise (error if number == distributed.rank() and error is not None else raised) from None
    return any(stops for _, stops in said)


def _plain(error: Exception | None) -> Exception | None:
    """The same error of a kind that goes to other processes."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error), error.filename)
    if error is None or isinstance(error, UnreadableSample):
        return error
    return (
        ValueError(str(error)) if isinstance(error, ValueError) else RuntimeError(f"rank {distributed.rank()} could not encode its samples: {error}")
    )


class EncodingProgress:
    """Lines of rank 0 on how many of some missing shards are encoded."""

    def __init__(self, kept: EncodedSet, count: int) -> None:
        self.kept, self.count, self.done = kept, count, 0
        self.begin = self.said = time.monotonic()

    def add(self, shards: int) -> None:
        """So many more are there."""
        self.done += shards
        now, spent = time.monotonic(), time.monotonic() - self.begin
        if distributed.rank():
            return
        if self.done == self.count:
            print(f"encoded {self.count:,} of {counted(self.kept.num_shards, 'shard')} in {spent:.0f} s, kept in {self.kept.folder}", flush=True)
        elif now - self.said > _LINE_SECONDS:
            self.said = now
            print(f"encoded {self.done:,} of {counted(self.count, 'shard')}, {spent / self.done * (self.count - self.done):.0f} s left", flush=True)
