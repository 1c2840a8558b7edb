"""Weights out of a checkpoint, or of an export that is sealed like one."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from genlib import companions
from genlib.checkpoint.manifest import WEIGHTS, Manifest, verify
from genlib.task import Task


def load_into(task: Task, checkpoint: Path) -> None:
    """Fills the task with a verified checkpoint's weights, the moving average where there is one. ValueError names the first that does not fit."""
    verify(checkpoint)
    here, there = task.state_dict(), load_weights(checkpoint, ema=True)
    for name in sorted({*here, *there}):
        if name not in here or name not in there:
            odd = f"{name} is {'not in it' if name in here else 'in it alone'}"
            raise ValueError(f"{checkpoint} is of another task: {odd}; name a run of the same kind")
        if here[name].shape != there[name].shape and not name.endswith("_extra_state"):
            raise ValueError(
                f"{checkpoint} is of another size: {name} is {tuple(there[name].shape)} there and {tuple(here[name].shape)} here; "
                "give the task the options it was trained with"
            )
    task.load_state_dict(there)


def load_weights(checkpoint: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """The full state dict, on the CPU; `ema` takes the moving average where there is one."""
    path = checkpoint / "ema.safetensors"
    return load_file(path if ema and path.exists() else checkpoint / WEIGHTS)


def is_export(checkpoint: Path) -> bool:
    """Whether the folder holds weights in the field's format alone, see `seal_export`."""
    return not (checkpoint / WEIGHTS).exists()


def task_of(checkpoint: Path, manifest: Manifest, *, ema: bool = True) -> Task:
    """The trained task of a checkpoint, or of an export, that has been verified."""
    task = manifest.blueprint.build()
    if is_export(checkpoint):
        companions.load_pretrained(task, checkpoint)
    else:
        task.load_state_dict(load_weights(checkpoint, ema=ema))
    return task


def load_task(checkpoint: Path, *, ema: bool = True, device: torch.device | str = "cpu") -> Task:
    """The trained task in eval mode, from a checkpoint, or an export that is sealed like one, that is verified first."""
    return task_of(checkpoint, verify(checkpoint), ema=ema).to(device).eval()
