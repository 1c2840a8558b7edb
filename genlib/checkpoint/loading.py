"""Weights out of a checkpoint, or of an export that is sealed like one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from genlib import companions, distributed
from genlib.checkpoint.manifest import EMA, WEIGHTS, Manifest, verify
from genlib.checkpoint.tensor_files import Shard, TensorFiles, are_there
from genlib.task import Task

ShardOf = Callable[[nn.Parameter], Tensor | None]
"""This rank's share of a weight, see `genlib.distributed.share`; None of one that is whole."""


def whole(weight: nn.Parameter) -> None:
    """Of a task that is not sharded."""


def load_into(task: Task, checkpoint: Path, shard_of: ShardOf = whole) -> None:
    """Fills the task with a verified checkpoint's weights, the moving average where there is one. ValueError names the first that does not fit."""
    verify(checkpoint)
    here = task.state_dict(keep_vars=True)
    with weight_files(checkpoint, ema=True) as files:
        there = {name: files.shape(name) for name in files}
    for name in sorted({*here, *there}):
        if name not in here or name not in there:
            odd = f"{name} is {'not in it' if name in here else 'in it alone'}"
            raise ValueError(f"{checkpoint} is of another task: {odd}; name a run of the same kind")
        if here[name].shape != there[name] and not name.endswith("_extra_state"):
            raise ValueError(
                f"{checkpoint} is of another size: {name} is {there[name]} there and {tuple(here[name].shape)} here; "
                "give the task the options it was trained with"
            )
    fill(task, checkpoint, shard_of, ema=True)


def fill(task: Task, checkpoint: Path, shard_of: ShardOf = whole, *, ema: bool = False) -> None:
    """Fills a task of the same kind with a checkpoint's weights; of those that `shard_of` knows only this rank's share is read."""
    shards = {
        name: (weight.shape, shard) for name, weight in task.named_parameters(remove_duplicate=False) if (shard := shard_of(weight)) is not None
    }
    with weight_files(checkpoint, ema=ema) as files:
        odd = task.load_state_dict({name: files[name] for name in files if name not in shards}, strict=False)
        for name, (shape, shard) in shards.items():
            low, _ = distributed.share(shape.numel(), distributed.rank(), distributed.world_size())
            _copy(files, Shard(name, low, shard))
    if wrong := [*(name for name in odd.missing_keys if name not in shards), *odd.unexpected_keys]:
        raise RuntimeError(f"{checkpoint} does not fit {type(task).__name__}: {', '.join(wrong[:3])}")


def fill_shards(shards: Iterable[Shard], checkpoint: Path, *, ema: bool = False) -> None:
    """Fills live pieces of weights, and reads no others; `ema` takes the moving average where there is one."""
    with weight_files(checkpoint, ema=ema) as files:
        for shard in shards:
            _copy(files, shard)


def _copy(files: TensorFiles, shard: Shard) -> None:
    """Of the rows of its tensor those are read that have a part in it; a tensor without axes is read whole."""
    if not files.shape(shard.name):
        shard.tensor.copy_(files[shard.name].reshape(-1)[shard.offset : shard.offset + shard.tensor.numel()])
        return
    piece, low, high = files.slices(shard.name), shard.offset, shard.offset + shard.tensor.numel()
    size = math.prod(piece.get_shape()[1:])
    first, last = (low // size, -(-high // size)) if size else (0, 0)
    shard.tensor.copy_(piece[first:last].reshape(-1)[low - first * size : high - first * size])


def load_weights(checkpoint: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """The full state dict, on the CPU; `ema` takes the moving average where there is one."""
    with weight_files(checkpoint, ema=ema) as files:
        return {name: files[name] for name in files}


def weight_files(checkpoint: Path, *, ema: bool) -> TensorFiles:
    """Where the weights are, or, where asked for and there, their moving average."""
    return TensorFiles(checkpoint, EMA if ema and are_there(checkpoint, EMA) else WEIGHTS)


def is_export(checkpoint: Path) -> bool:
    """Whether the folder holds weights in the field's format alone, see `seal_export`."""
    return not are_there(checkpoint, WEIGHTS)


def task_of(checkpoint: Path, manifest: Manifest, *, ema: bool = True) -> Task:
    """The trained task of a checkpoint, or of an export, that has been verified."""
    task = manifest.blueprint.build()
    if is_export(checkpoint):
        companions.load_pretrained(task, checkpoint)
    else:
        fill(task, checkpoint, ema=ema)
    return task


def load_task(checkpoint: Path, *, ema: bool = True, device: torch.device | str = "cpu") -> Task:
    """The trained task in eval mode, from a checkpoint, or an export that is sealed like one, that is verified first."""
    return task_of(checkpoint, verify(checkpoint), ema=ema).to(device).eval()
