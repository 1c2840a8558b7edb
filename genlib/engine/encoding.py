"""When frozen networks encode samples: on the fly in every step, or once, kept on disk by sample number.

Either way a loss sees what `genlib.task.encoded` gives, rounded to float16; so weights do not tell which way was taken.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from genlib import distributed
from genlib.checkpoint import Blueprint
from genlib.config import to_json
from genlib.engine.same_run import CHANGEABLE
from genlib.recipe import Stage
from genlib.task import ROW_FACTS, Task, encode, encoded
from genlib.types import Batch, DataSource, DataSpec, Encoded, Transform

FORMAT = 1
_WARM_UP, _TRIALS = 1, 3
"""Micro-batches that `auto` encodes before it times any, and those it times."""
_FILL = 0.9
"""Largest share of the free disk that `auto` takes."""
_POLL_SECONDS = 0.2


def identity(task: Task, stage: Stage, spec: DataSpec) -> str:
    """A name for what the task's `encode` makes of these samples: a digest of all that it may depend on.

    That is the data, the task's configuration, and all of its state but what it trains: frozen networks, tokenizers, scales. The
    task must not have been wrapped or sharded yet.
    """
    data = {name: value for name, value in to_json(stage.data).items() if f"data.{name}" not in CHANGEABLE}
    kind = f"{type(stage.task).__module__}:{type(stage.task).__qualname__}"
    facts = [FORMAT, kind, to_json(stage.task), to_json(replace(spec, validation_name="")), data]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in frozen_state(task).items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def frozen_state(task: Task) -> dict[str, Tensor]:
    """The task's state by name, without what its players train and without their buffers."""
    players = tuple(f"{player}." for player in task.players())
    moving = {name for name, parameter in task.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    moving |= {name for name, _ in task.named_buffers(remove_duplicate=False) if name.startswith(players)}
    return {name: value for name, value in sorted(task.state_dict().items()) if name not in moving}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingCosts:
    """What `auto` knows when it decides; milliseconds are of one sample."""

    encode_ms: float
    write_ms: float
    read_ms: float
    record_bytes: int
    free_bytes: int
    samples_left: int
    """That the run still sees, each time counted."""
    num_samples: int
    share: float
    """Of the samples, that is there already."""


def should_keep(it: EncodingCosts) -> tuple[bool, str]:
    """Whether to keep what is encoded, and why, in words with the numbers."""
    new = min(it.samples_left, it.num_samples) * (1 - it.share)
    again = it.samples_left - new
    need, times = new * it.record_bytes, it.samples_left / max(1, it.num_samples)
    costs = f"a sample takes {it.encode_ms:.3g} ms to encode, {it.write_ms:.3g} ms to write and {it.read_ms:.3g} ms to read"
    if need > _FILL * it.free_bytes:
        return False, f"keeping it takes {need / 1e9:.2f} GB and the disk has {it.free_bytes / 1e9:.2f} GB free"
    if it.read_ms >= it.encode_ms:
        return False, f"reading is no faster than encoding; {costs}"
    if again * (it.encode_ms - it.read_ms) <= new * it.write_ms:
        return False, f"the run sees each sample {times:.1f} times; {costs}"
    return True, f"{costs}; the run sees each {times:.1f} times, keeping all takes {need / 1e9:.2f} of {it.free_bytes / 1e9:.2f} GB free"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ahead:
    """What workers need to encode samples before training."""

    blueprint: Blueprint
    stage: Stage
    weights: Path
    """safetensors of `frozen_state`."""
    identity: str


EncodeAhead = Callable[[Ahead], None]
"""Encodes all samples and keeps what it made; the engine knows no other processes than its ranks."""


class Encoding:
    """How one run encodes: called with every micro-batch, in the same order on all ranks."""

    def __init__(self, task: Task, device: torch.device, store: Encoded | None = None, stored: Encoded | None = None) -> None:
        self.task, self.device, self.store = task, device, store
        self.stored = stored
        """The same as `store`, for the thread of the source."""
        self.measure: Callable[..., EncodingCosts] | None = None
        """Of `auto`, until it has decided."""
        self.calls, self.tried, self.timed, self.seconds = 0, 0, 0, np.zeros(3)
        """Of the trial: micro-batches, those that were encoded, of them those that could be kept, and what a sample of these took in all
        to encode, write and read."""

    def __call__(self, batch: Batch) -> Batch:
        """See `encoded`."""
        if not self.task.encodes:
            return batch
        made = {name: value for name, value in batch.items() if name not in (*ROW_FACTS, "encoded")} if "encoded" in batch else self._make(batch)
        if self.measure is not None:
            self.calls += 1
            if self.calls == _WARM_UP + _TRIALS:
                self._decide(self.measure, made)
        return encoded(self.task, batch, made)

    def _make(self, batch: Batch) -> Batch:
        clock = [self._now()]
        made = encode(self.task, batch)
        if self.store is None:
            return made
        clock.append(self._now())
        kept = keep(self.store, batch, made)
        clock.append(self._now())
        if self.measure is not None and self.calls >= _WARM_UP and len(kept):
            self.tried += 1
            if self.store.read(kept) is not None:
                self.timed += 1
                self.seconds += np.diff([*clock, self._now()]) / len(kept)
        return made

    def _now(self) -> float:
        if self.measure is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _decide(self, measure: Callable[..., EncodingCosts], made: Batch) -> None:
        """All ranks do what rank 0 found best; a store that the trial began goes where it is of no use."""
        self.measure, store = None, self.store
        assert store is not None
        good, fresh, why = True, False, "the samples were there"
        if self.tried and not self.timed:
            good, why = False, f"nothing can be kept in {store.folder}"
        elif distributed.rank() == 0 and self.timed:
            encode_ms, write_ms, read_ms = (1000 * self.seconds / self.timed).tolist()
            measured = measure(encode_ms=encode_ms, write_ms=write_ms, read_ms=read_ms, record_bytes=store.record_bytes(made))
            (good, why), fresh = should_keep(measured), measured.share == 0
        good, fresh, why = distributed.broadcast_object((good, fresh, why))
        say(why, store if good else None)
        if not good:
            self.store = None
            distributed.barrier()  # nobody writes any more
            if fresh and distributed.rank() == 0:
                store.remove()


def keep(store: Encoded, batch: Batch, made: Batch) -> np.ndarray:
    """Keeps what was made of a batch's good samples; their numbers."""
    samples, good = batch["sample"].cpu().numpy(), batch["valid"].cpu().numpy()
    store.write(samples, {name: value.cpu() for name, value in made.items()}, good)
    return samples[good]


def say(why: str, store: Encoded | None) -> None:
    """The line that tells what was chosen."""
    if distributed.rank() == 0:
        print(f"encoding {f'once, kept in {store.folder}' if store else 'on the fly'}: {why}", flush=True)


def choose(
    stage: Stage, task: Task, blueprint: Blueprint, source: DataSource, device: torch.device, *, first: int, folder: Path, ahead: EncodeAhead | None
) -> Encoding:
    """How a run that goes on from step `first` encodes, as `train.encode` says. Called on all ranks with a task that is not wrapped yet.

    `ahead` is what encodes before training, on rank 0; `folder` is the run's. ValueError where the way that was asked for cannot be.
    """
    mode, left = stage.train.encode, (stage.train.steps - first) * stage.train.global_batch
    if not task.encodes or mode == "fly" or left <= 0:
        return Encoding(task, device)
    problem = _why_not(source, task.transform(train=True), mode, ahead)
    name = distributed.broadcast_object(identity(task, stage, source.spec) if not problem and distributed.rank() == 0 else "")
    stores = [source.encoded(name, stage.train.encoded_dir) for _ in range(0 if problem else 2)]  # type: ignore[attr-defined]
    if not problem and mode != "cache" and not _seen_by_all(stores[0].folder):
        problem = f"the workers' nodes do not share {stores[0].folder.parent}, so that train.encoded_dir must name another folder"
    if problem and mode != "auto":
        raise ValueError(f"train.encode is {mode}, but {problem}; use fly")
    if problem:
        say(problem, None)
        return Encoding(task, device)
    encoding = Encoding(task, device, *stores)
    if mode == "ahead":
        assert ahead is not None
        _first(lambda: ahead(ahead_of(stage, task, blueprint, source, folder)), folder / ".encoded_ahead")
    if mode == "auto":
        share = distributed.broadcast_object(stores[0].share())
        if not share and left <= source.spec.num_samples:
            say(f"the run sees {left:,} of {source.spec.num_samples:,} samples, each once", None)
            return Encoding(task, device)
        encoding.measure = partial(
            EncodingCosts, free_bytes=stores[0].free_bytes(), samples_left=left, num_samples=source.spec.num_samples, share=share
        )
    return encoding


def _why_not(source: DataSource, transform: Transform | None, mode: str, ahead: EncodeAhead | None) -> str:
    """Why what is encoded cannot be kept; empty where it can."""
    if not hasattr(source, "encoded"):
        return "the samples of this source have no numbers by which to keep what they are encoded to"
    if getattr(transform, "partners", ()):
        return "the task wants other samples beside each, so that what it encodes is not of one sample alone"
    if source.spec.several_captions and "text" in (getattr(transform, "fields", None) or ("text",)):
        return "one of a sample's captions is drawn at each visit, so that what it encodes differs from visit to visit"
    if mode == "ahead" and ahead is None:
        return "only jobs/train.py can encode before training"
    return ""


def _seen_by_all(folder: Path) -> bool:
    """Whether every worker sees the folder; those of one node do."""
    if len(set(distributed.all_gather_object(socket.gethostname()))) == 1:
        return True
    token = folder / distributed.broadcast_object(f".seen-{uuid4().hex}")
    with suppress(OSError):
        if distributed.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            token.touch()
    distributed.barrier()
    seen = all(distributed.all_gather_object(token.exists()))
    if distributed.rank() == 0:
        token.unlink(missing_ok=True)
    return seen


def ahead_of(stage: Stage, task: Task, blueprint: Blueprint, source: DataSource, folder: Path) -> Ahead:
    """What encoders need, with the frozen networks in a file that they see."""
    weights = folder / "encoders.safetensors"
    save_file({key: value.detach().cpu().clone().contiguous() for key, value in frozen_state(task).items()}, weights)
    return Ahead(blueprint=blueprint, stage=stage, weights=weights, identity=identity(task, stage, source.spec))


def _first(work: Callable[[], None], note: Path) -> None:
    """Rank 0 works while the others look for its note: a collective would not wait for so long. RuntimeError where it failed."""
    distributed.barrier()  # all ranks see the same folder, and a note of an earlier attempt goes before anybody looks
    if distributed.rank() == 0:
        note.unlink(missing_ok=True)
    distributed.barrier()
    if distributed.rank() == 0:
        failed = "failed"
        try:
            work()
            failed = ""
        finally:
            note.write_text(failed or "done")
    while not (note.exists() and (said := note.read_text())):
        time.sleep(_POLL_SECONDS)
    if said != "done":
        raise RuntimeError("rank 0 could not encode the samples; see its error")
    distributed.barrier()
    if distributed.rank() == 0:
        note.unlink()
