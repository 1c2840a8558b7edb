"""The smoke form of a recipe, trained stage after stage as jobs/train.py does it: what tests of later stages stand on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from genlib import registry
from genlib.data.source import ShardSource, open_source
from genlib.engine.fit import fit
from genlib.engine.trace import FakeTask
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import DataSpec
from jobs.plan import built

CPU = torch.device("cpu")


def source_of(stage: Stage) -> ShardSource:
    return open_source(stage.data)


def train_stage(recipe: str, stage: Stage, folder: Path, earlier: Mapping[str, Path], **options: object) -> Path:
    """Trains one stage in `folder`, given the final checkpoints of earlier ones by stage name; its final checkpoint."""
    one = replace(stage, train=replace(stage.train, trackers=(), **options))
    upstream = {role: earlier[name] for role, name in stage.needs.items()}
    return fit(one, recipe=recipe, source=source_of(one), folder=folder, device=CPU, upstream=upstream)


def metrics(run: Path) -> list[dict[str, float]]:
    """What a run logged of each step, but for what the clock says."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name.startswith(("train/", "val/"))} for row in rows]


def train_stages(recipe: str, root: Path, names: Iterable[str] | None = None) -> dict[str, Path]:
    """The final checkpoints of a recipe's smoke stages, all or those of such names, each in a folder of its name."""
    final: dict[str, Path] = {}
    for stage in registry.load(recipe).smoke:
        if names is None or stage.name in names:
            final[stage.name] = train_stage(recipe, stage, root / stage.name, final)
    return final


def built_untrained(recipe: str) -> dict[str, Task]:
    """The tasks of all smoke stages as they are before training, the earlier ones frozen in the later."""
    tasks: dict[str, Task] = {}
    for stage in registry.load(recipe).smoke:
        torch.manual_seed(0)
        upstream = {role: tasks[name] for role, name in stage.needs.items()}
        source = source_of(stage)
        tasks[stage.name] = stage.task.build(source.spec, upstream)
        tasks[stage.name].prepare(source)
    return tasks


def built_on_meta(recipe: str) -> dict[str, Task]:
    """The tasks of all stages in full size, for colour pictures with captions, without memory."""
    tasks: dict[str, Task] = {}
    with torch.device("meta"):
        for stage in registry.load(recipe).stages:
            upstream = {role: tasks[name] for role, name in stage.needs.items()}
            spec = DataSpec(channels=3, image_size=stage.data.image_size, has_captions=True, num_samples=1)
            tasks[stage.name] = stage.task.build(spec, upstream)
    return tasks


def without_values(recipe: str, name: str) -> FakeTask:
    """The task of a stage in full size, for colour pictures with captions, to be counted."""
    stages = {stage.name: stage for stage in registry.load(recipe).stages}
    spec = DataSpec(channels=3, image_size=stages[name].data.image_size, has_captions=True, num_samples=1)
    return FakeTask(lambda: built(stages[name], stages, spec))
