"""When frozen networks encode samples: on the fly in every step, or ahead of the first one, kept as a data set of its own.

Either way a loss sees what `genlib.encoded_batch.encode` gives, rounded to float16; so weights do not tell which way was taken.
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
from itertools import islice
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

from genlib import distributed
from genlib.config import to_json
from genlib.engine.encoder import Encoder, encode_missing, rows_at_once
from genlib.engine.same_run import CHANGEABLE
from genlib.engine.stop import Interrupted
from genlib.plurals import counted
from genlib.recipe import Stage
from genlib.storage import lacks_room, stopped, why
from genlib.task import Task
from genlib.types import DataSource, DataSpec, EncodedSet, Transform, UnreadableSample

FORMAT = 2
_WARM_UP, _TRIALS = 1, 3
"""Batches that `auto` encodes before it times any, and those it times."""
_FILL = 0.9
"""Largest share of the free disk that `auto` takes."""
_GIVES_WAY = (OSError, UnreadableSample)
"""Errors of encoding ahead for which `auto` encodes on the fly."""


def identity(task: Task, stage: Stage, spec: DataSpec) -> str:
    """A name for what the task's `encode` makes of these samples: a digest of all that it may depend on.

    That is the data, the task's configuration, and all of its state but what it trains: frozen networks, tokenizers, scales; and what modules do
    that no state says, such as how texts are cleaned, which each one tells by `beyond_state`. The task must not have been wrapped yet.
    """
    data = {name: value for name, value in to_json(stage.data).items() if f"data.{name}" not in CHANGEABLE}
    kind = f"{type(stage.task).__module__}:{type(stage.task).__qualname__}"
    facts = [FORMAT, kind, to_json(stage.task), to_json(replace(spec, validation_name="")), data]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in frozen_state(task).items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for name, words in beyond_state(task).items():
        digest.update(f"{name} {words}".encode())
    return digest.hexdigest()[:32]


def beyond_state(task: Task) -> dict[str, str]:
    """What the modules of a task and of its upstream tasks tell of what they do beside their state, by name."""
    found = {name: words for name, module in task.named_modules() if (words := getattr(module, "beyond_state", ""))}
    for role, one in task.upstream.items():
        found |= {f"{role}.{name}": words for name, words in beyond_state(one).items()}
    return dict(sorted(found.items()))


def frozen_state(task: Task) -> dict[str, Tensor]:
    """The task's state by name, without what its players train and without their buffers."""
    players = tuple(f"{player}." for player in task.players())
    moving = {name for name, parameter in task.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    moving |= {name for name, _ in task.named_buffers(remove_duplicate=False) if name.startswith(players)}
    return {name: value for name, value in sorted(task.state_dict(keep_vars=True).items()) if name not in moving}


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
    """Whether to encode ahead, and why, in words with the numbers."""
    new = it.num_samples * (1 - it.share)
    need, times = new * it.record_bytes, it.samples_left / max(1, it.num_samples)
    costs = f"a sample takes {it.encode_ms:.3g} ms to encode, {it.write_ms:.3g} ms to write and {it.read_ms:.3g} ms to read"
    if need > _FILL * it.free_bytes:
        return False, f"keeping it takes {need / 1e9:.2f} GB and the disk has {it.free_bytes / 1e9:.2f} GB free"
    if it.read_ms >= it.encode_ms:
        return False, f"reading is no faster than encoding; {costs}"
    if new * (it.encode_ms + it.write_ms) >= it.samples_left * (it.encode_ms - it.read_ms):
        return False, f"the run sees each sample {times:.1f} times; {costs}"
    return True, f"{costs}; the run sees each {times:.1f} times, keeping all takes {need / 1e9:.2f} of {it.free_bytes / 1e9:.2f} GB free"


def encoded_source(
    stage: Stage, task: Task, source: DataSource, device: torch.device, *, name: str, first: int, stop_asked: Callable[[], bool]
) -> DataSource | None:
    """Where a run that goes on from step `first` reads encoded samples; None where it encodes on the fly, as `train.encode` says.

    Called on all ranks with the task on its device, `name` being its identity, empty for a task that is to encode nothing ahead. Where
    encoding ahead was asked for and cannot be: ValueError, or StorageError without room. `Interrupted` where `stop_asked`.
    """
    if not name:
        return None
    mode, kept = stage.train.encode, source.encoded_set(name, stage.train.encoded_dir)
    why_not = why_no_set(source, kept, task.transform(train=True))
    if not why_not and kept is not None and not _seen_by_all(kept.folder):
        why_not = f"the workers' nodes do not share {kept.folder.parent}, so that train.encoded_dir must name another folder"
    if why_not and mode == "ahead":
        raise ValueError(f"train.encode is ahead, but {why_not}; use fly")
    if kept is None or why_not:
        return say(why_not)
    encoder = Encoder(task, kept, rows_at_once(stage, distributed.world_size()))
    left = (stage.train.steps - first) * stage.train.global_batch
    found = _look(encoder, mode, left, source.spec.num_samples, device) if distributed.rank() == 0 else ([], True, "")
    missing, ahead, reason = distributed.broadcast_object(found)
    if not ahead:
        return say(reason)
    say(reason, kept)
    try:
        done = encode_missing(encoder, missing, device, stop_asked)
    except _GIVES_WAY as error:
        if mode == "auto":
            return say(why(kept.folder, error) if isinstance(error, OSError) else str(error))
        raise (stopped(error, kept.folder) if lacks_room(error) else error) from None
    if not done:
        raise Interrupted(first, stage.train.steps, None)
    return kept.source()


def why_no_set(source: DataSource, kept: EncodedSet | None, transform: Transform | None) -> str:
    """Why what is encoded of the samples is no data set; empty where it can be one."""
    if kept is None:
        return "the samples of this source have no numbers by which to keep what they are encoded to"
    if getattr(transform, "partners", ()):
        return "the task wants other samples beside each, so that what it encodes is not of one sample alone"
    if source.spec.several_captions and "text" in (getattr(transform, "fields", None) or ("text",)):
        return "one of a sample's captions is drawn at each visit, so that what it encodes differs from visit to visit"
    return ""


def say(reason: str, kept: EncodedSet | None = None) -> None:
    """The line that tells what was chosen, where there is a reason to tell."""
    if reason and distributed.rank() == 0:
        print(f"encoding {f'ahead, kept in {kept.folder}' if kept else 'on the fly'}: {reason}", flush=True)


def _look(encoder: Encoder, mode: str, left: int, num_samples: int, device: torch.device) -> tuple[list[int], bool, str]:
    """On one rank: shards that are missing, whether to encode them ahead, and why."""
    missing = encoder.kept.missing()
    share = 1 - len(missing) / encoder.kept.num_shards
    if not missing:
        return missing, True, "the samples were there"
    if mode == "ahead":
        return missing, True, f"{len(missing):,} of {counted(encoder.kept.num_shards, 'shard is', 'shards are')} missing"
    if share == 0 and left <= num_samples:
        return missing, False, f"the run sees {left:,} of {counted(num_samples, 'sample')}, each once"
    try:
        costs = measured(encoder, device)
    except _GIVES_WAY as error:
        return missing, False, f"nothing can be kept in {encoder.kept.folder.parent}: {error.strerror if isinstance(error, OSError) else error}"
    ahead, reason = should_keep(costs(samples_left=left, num_samples=num_samples, share=share))
    return missing, ahead, reason


def measured(encoder: Encoder, device: torch.device) -> Callable[..., EncodingCosts]:
    """`EncodingCosts` of a few batches, but for what the run is to do."""
    batches, made, seconds = encoder.decoded([0], device), [], []
    try:
        for batch in islice(batches, _WARM_UP + _TRIALS):
            begin = _now(device)
            made.append(encoder(batch))
            seconds.append((_now(device) - begin) / len(batch["sample"]))
    finally:
        batches.close()
    write, read, record_bytes = encoder.kept.trial(made)
    timed = seconds[_WARM_UP:] or seconds
    return partial(
        EncodingCosts, encode_ms=1000 * sum(timed) / len(timed), write_ms=1000 * write, read_ms=1000 * read, record_bytes=record_bytes,
        free_bytes=encoder.kept.free_bytes(),
    )  # fmt: skip


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


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
