"""What a family has beside its training, by name: final scores, exports, pretrained weights, an example batch.

Each is a function named as `"module:function"` and imported when it is asked for. Its module imports the family; the family only names it,
so that neither pictures nor formats of other libraries are part of a family's own imports.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genlib.sharing.formats import Format, Graphs
    from genlib.task import Task
    from genlib.types import Batch, DataSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Companions:
    """Names of a family's functions, each `"module:function"`; empty where it has none."""

    assess: str = ""
    """assess(task, source, folder) -> dict[str, float]: scores over the held-out split by name, and pictures that show them in `folder`."""
    sheet: str = ""
    """sheet(task, source, path) -> None: the one picture, a PNG, that shows what the task has learnt so far, always of the same seeds, prompts or
    held-out samples, so that those of a run can be looked at one after the other; none where there is nothing to show. `assess` leaves it too."""
    export: str = ""
    """export(task, folder) -> Sequence[Format]: writes the formats that the rest of the field loads into `folder`, and says of each what its
    card needs to know."""
    graphs: str = ""
    """graphs(task) -> Graphs: its networks as graphs, for ONNX files."""
    no_graphs: str = ""
    """Why there are none, as the end of a sentence."""
    load_pretrained: str = ""
    """load_pretrained(task, folder) -> None: fills the task from a local folder in the field's format, safetensors only."""
    example: str = ""
    """example(task, size) -> Batch: the family's own entries of a made-up batch of `size` rows, of the shapes that `loss` gets."""


def resolve(name: str) -> Callable[..., Any]:
    """The function that `"module:function"` names."""
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


def assess(task: Task, source: DataSource, folder: Path) -> dict[str, float]:
    """Final scores over the held-out split, and pictures that show them in `folder`; for one process, with the task in eval mode."""
    name = task.companions.assess
    return resolve(name)(task, source, folder) if name else {}


def sheet(task: Task, source: DataSource, path: Path) -> None:
    """The picture of what the task has learnt, a PNG, where it has one; for one process, with the task in eval mode and without gradients."""
    if name := task.companions.sheet:
        resolve(name)(task, source, path)


def export(task: Task, folder: Path) -> Sequence[Format]:
    """Writes the formats that the rest of the field loads into `folder`; nothing where the family has none."""
    name = task.companions.export
    return resolve(name)(task, folder) or () if name else ()


def graphs(task: Task) -> Graphs:
    """Its networks as graphs. ValueError in one sentence where the family has none."""
    if not (name := task.companions.graphs):
        raise ValueError(f"{type(task).__name__} does not become ONNX files: {task.companions.no_graphs or 'its family names no graphs'}")
    return resolve(name)(task)


def load_pretrained(task: Task, folder: Path) -> None:
    """Fills the task from a folder in the field's format. ValueError in one sentence where the folder is of something else."""
    if not (name := task.companions.load_pretrained):
        raise ValueError(f"{folder} is no run or checkpoint of ours, and {type(task).__name__} reads no other format; train it, or name a run")
    resolve(name)(task, folder)


def example(task: Task, size: int) -> Batch:
    """A made-up batch of `size` rows, all of which count, of the shapes that `loss` gets: what plans and counts are made with."""
    import torch

    if not (name := task.companions.example):
        raise NotImplementedError(f"{type(task).__name__} gives no example batch")
    rows = torch.arange(size)
    facts = {"position": rows, "sample": rows, "valid": torch.ones(size, dtype=torch.bool), "weight": torch.ones(size)}
    return {**facts, **resolve(name)(task, size)}
