"""A task as it is before a strategy has it: built, then prepared from the data or filled from a checkpoint, by all ranks together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from genlib import checkpoint, companions, distributed
from genlib.engine.encoding import identity
from genlib.engine.frozen import lower
from genlib.engine.sharded_init import ShardedInit
from genlib.recipe import Stage
from genlib.remote.store_folder import is_address
from genlib.types import DataSource


class InitialTask:
    """The task of a stage with its initial weights, the same on every rank.

    upstream: final checkpoints of the stages it needs, by role. sharded: the strategy's, see `genlib.engine.strategy.Strategy.sharded_init`.
    """

    def __init__(self, stage: Stage, source: DataSource, upstream: Mapping[str, Path], sharded: ShardedInit | None = None) -> None:
        self.stage, self.source, self.sharded = stage, source, sharded
        torch.manual_seed(stage.train.seed)
        tasks = {role: checkpoint.load_task(path) for role, path in upstream.items()}
        if sharded:
            sharded.keep_whole(weight for task in tasks.values() for weight in task.state_dict(keep_vars=True).values())
        with self.together():
            self.task = stage.task.build(source.spec, tasks)

    def together(self) -> AbstractContextManager:
        """Inside, all ranks make, change and read its weights."""
        return self.sharded or nullcontext()

    def prepare(self) -> None:
        """Weights as they are before the first step: from the data, or from `train.start_from`. ValueError where ranks then have different ones."""
        with self.together():
            if self.stage.train.start_from:
                self._start_from(self.stage.train.start_from)
            else:
                self.task.prepare(self.source)
        with self.together():
            self._check_equal()
        self._lower()

    def fill(self, folder: Path) -> None:
        """Weights of a verified checkpoint of the same task."""
        with self.together():
            checkpoint.fill(self.task, folder, self._shard_of)
        self._lower()

    def encoded_name(self) -> str:
        """The identity of what the task encodes, which only a task that is not wrapped tells; empty where that is on the fly."""
        if not self.task.encodes or self.stage.train.encode == "fly":
            return ""
        with self.together():
            return distributed.broadcast_object(identity(self.task, self.stage, self.source.spec))

    def _lower(self) -> None:
        """Last, so that what is measured on the way does not depend on it, and before anything is encoded."""
        if self.stage.train.lowers_frozen:
            lower(self.task)

    def _start_from(self, where: str) -> None:
        """Weights of another run, on a disk or at an address in a store, or of a folder in the field's own format."""
        folder = checkpoint.fetched(where) if is_address(where) else Path(where)
        if (found := checkpoint.find(folder)) and not checkpoint.is_export(found):
            return checkpoint.load_into(self.task, found, self._shard_of)
        if not folder.is_dir():
            raise ValueError(f"train.start_from is {str(folder)!r}, which is no folder that this worker sees; name a run or a checkpoint")
        self.task.prepare(self.source)
        companions.load_pretrained(self.task, folder)

    def _shard_of(self, weight: nn.Parameter) -> Tensor | None:
        return self.sharded.shard_of(weight) if self.sharded else None

    def _check_equal(self) -> None:
        sharded = self.sharded
        whole = [value for value in self.task.state_dict(keep_vars=True).values() if not (sharded and sharded.is_apart(value))]
        sums = [value.detach().sum(dtype=torch.float64).item() for value in whole] + (sharded.sums() if sharded else [])
        if any(other != sums for other in distributed.all_gather_object(sums)):
            raise ValueError(
                f"{type(self.task).__name__}.prepare gave different values on different ranks; it must depend on the data and the seed alone"
            )
