"""Encoding samples by frozen networks on other workers, by Ray Data: missing shards, and actors that encode and write them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from genlib.checkpoint import Blueprint
from genlib.engine.encoder import Encoder, EncodingProgress, encode_missing, rows_at_once
from genlib.engine.encoding import frozen_state, identity
from genlib.engine.frozen import lower
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import EncodedSet

_MOST_BLOCKS = 1000


@dataclass(frozen=True, slots=True)
class Workers:
    """Who encodes: how many processes, and what each reserves."""

    count: int
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class EncodingWork:
    """What a worker needs to know."""

    stage: Stage
    blueprint: Blueprint
    weights: Path
    """safetensors of `frozen_state`."""
    identity: str
    data: Path
    """Where the driver keeps what the samples are, see `open_source`."""

    @classmethod
    def of(cls, stage: Stage, task: Task, blueprint: Blueprint, folder: Path, data: Path) -> EncodingWork:
        """The work for a task as it is before its first step, with its frozen networks in a file of `folder`, which all workers see."""
        weights = folder / "encoders.safetensors"
        save_file({key: value.detach().cpu().clone().contiguous() for key, value in frozen_state(task).items()}, weights)
        return cls(stage, blueprint, weights, identity(task, stage, blueprint.spec), data)

    def kept(self) -> EncodedSet:
        """What is encoded of the samples."""
        from genlib.data.source import open_source

        source = open_source(replace(self.stage.data, readers=0), self.data, needs=self.stage.task.fields)
        return source.encoded_set(self.identity, self.stage.train.encoded_dir)

    def restored(self) -> Task:
        """The task with its frozen networks; what it trains takes no memory."""
        task = self.blueprint.build()
        if self.stage.train.lowers_frozen:
            lower(task)
        task.load_state_dict(load_file(self.weights), strict=False)
        for player in task.players():
            task.player(player).to("meta")
        return task.eval()


class ShardEncoder:
    """An actor of Ray Data: it builds the networks once, then encodes shards."""

    def __init__(self, work: EncodingWork, workers: Workers) -> None:
        torch.set_num_threads(max(1, int(workers.cpus)))
        self.device = torch.device("cuda" if workers.gpus else "cpu")
        task = work.restored()._apply(lambda value: value if value.is_meta else value.to(self.device))
        task.upstream.to(self.device)
        self.encoder = Encoder(task, work.kept(), rows_at_once(work.stage, 1))

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`shard` (n,) -> the same, once they are written."""
        encode_missing(self.encoder, rows["shard"].tolist(), self.device)
        return rows


def encode_by_workers(work: EncodingWork, workers: Workers) -> None:
    """Encodes what is not there yet, with a line of progress at times. ValueError as a worker raised it."""
    kept = work.kept()
    missing = kept.missing()
    if not missing:
        return print(f"all samples are encoded already, in {kept.folder}", flush=True)
    progress = EncodingProgress(kept, len(missing))
    try:
        for _ in encoded_shards(work, workers, missing):
            progress.add(1)
    finally:
        work.weights.unlink(missing_ok=True)


def encoded_shards(work: EncodingWork, workers: Workers, missing: list[int]) -> Iterator[int]:
    """Shards once they are written, in whatever order that is."""
    import ray
    from ray.exceptions import RayError

    quiet(ray.data.DataContext.get_current())
    done = ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=min(len(missing), _MOST_BLOCKS)).map_batches(
        ShardEncoder,
        fn_constructor_args=(work, workers),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers.count, len(missing))),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
    )
    try:
        yield from (int(row["shard"]) for row in done.iter_rows())
    except RayError as error:
        raise cause_of(error) from None


def cause_of(error: BaseException) -> BaseException:
    """The ValueError that a worker raised, out of what Ray wraps around it; else the error as it is."""
    inner: BaseException | None = error
    while inner is not None:
        if type(inner) is ValueError:
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def quiet(context: Any) -> None:
    """Ray Data says nothing: our lines are for people."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
