"""Encoding samples by frozen networks on other workers, by Ray Data: ranges of sample numbers, and actors that encode what is absent."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from genlib import distributed
from genlib.engine.encoding import Ahead, keep
from genlib.task import Task, encode

if TYPE_CHECKING:
    from genlib.data.source import ShardSource

BATCH = 64
"""Samples that are encoded at once."""
COMPLETE = "complete"
"""A file in the store's folder: all of it was encoded once."""
_MOST_BLOCKS = 1000
_LINE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Workers:
    """Who encodes: how many processes, and what each reserves."""

    count: int
    cpus: float = 1.0
    gpus: float = 0.0


class Encoder:
    """An actor of Ray Data: it builds the networks once, then encodes ranges of samples."""

    def __init__(self, work: Ahead, kept: Path, workers: Workers) -> None:
        torch.set_num_threads(max(1, int(workers.cpus)))
        self.device = torch.device("cuda" if workers.gpus else "cpu")
        self.task = restored(work)._apply(lambda value: value if value.is_meta else value.to(self.device))
        self.task.upstream.to(self.device)
        self.source, self.store = opened(work, kept)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`first` and `last` of ranges -> how many samples each has."""
        for first, last in zip(rows["first"].tolist(), rows["last"].tolist(), strict=True):
            self.encode(np.arange(first, last))
        return {"samples": rows["last"] - rows["first"]}

    def encode(self, samples: np.ndarray) -> None:
        """Keeps what the task makes of the samples that are not there yet."""
        absent = samples[~self.store.has(samples)]
        for batch in self.source.once(absent, BATCH, self.task.transform(train=True)) if len(absent) else ():
            batch = {name: value.to(self.device) for name, value in batch.items()}
            keep(self.store, batch, encode(self.task, batch))


def opened(work: Ahead, kept: Path) -> tuple[ShardSource, Any]:
    """The samples, and where what is made of them is kept."""
    from genlib.data.source import open_source

    source = open_source(replace(work.stage.data, readers=0), kept, needs=work.stage.task.fields)
    return source, source.encoded(work.identity, work.stage.train.encoded_dir)


def restored(work: Ahead) -> Task:
    """The task with its frozen networks; what it trains takes no memory."""
    task = work.blueprint.build()
    task.load_state_dict(load_file(work.weights), strict=False)
    for player in task.players():
        task.player(player).to("meta")
    return task.eval()


def encode_ahead(work: Ahead, kept: Path, workers: Workers) -> None:
    """Encodes what is not there yet, with a line of progress at times. ValueError as an encoder raised it."""
    source, store = opened(work, kept)
    total, complete = source.num_samples("train"), store.folder / COMPLETE
    if complete.exists() and store.share() == 1:
        return print(f"all {total:,} samples are encoded already, in {store.folder}", flush=True)
    begin = said = time.monotonic()
    done = 0
    try:
        for count in counts(work, kept, workers, total, store.shard_samples):
            done += count
            now = time.monotonic()
            if done < total and now - said > _LINE_SECONDS:
                print(f"encoded {done:,} of {total:,} samples, {(now - begin) / done * (total - done):.0f} s left", flush=True)
                said = now
    finally:
        work.weights.unlink(missing_ok=True)
    complete.touch()
    print(f"encoded {total:,} samples in {time.monotonic() - begin:.0f} s, kept in {store.folder}", flush=True)


def counts(work: Ahead, kept: Path, workers: Workers, total: int, shard_samples: int) -> Iterator[int]:
    """How many samples are done, range by range, in whatever order they end."""
    import ray
    from ray.exceptions import RayError

    quiet(ray.data.DataContext.get_current())
    ranges = [{"first": first, "last": min(first + shard_samples, total)} for first in range(0, total, shard_samples)]
    encoders = min(workers.count, len(ranges))
    done = ray.data.from_items(ranges, override_num_blocks=min(len(ranges), _MOST_BLOCKS)).map_batches(
        Encoder,
        fn_constructor_args=(work, kept, workers),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=encoders),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
    )
    try:
        yield from (int(row["samples"]) for row in done.iter_rows())
    except RayError as error:
        raise cause_of(error) from None


def cause_of(error: BaseException) -> BaseException:
    """The ValueError that an encoder raised, out of what Ray wraps around it; else the error as it is."""
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


def beside_training(work: Ahead, kept: Path) -> None:
    """From rank 0 of a training job, whose workers wait: on every CPU that nobody holds, else on theirs, reserving nothing."""
    import ray

    spare = int(ray.available_resources().get("CPU", 0))
    encode_ahead(work, kept, Workers(spare) if spare else Workers(distributed.world_size(), cpus=0))
