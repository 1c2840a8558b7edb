"""What there is to say of a checkpoint that is served."""

from __future__ import annotations

from pathlib import Path

from genlib.checkpoint import Manifest
from genlib.config import DataConfig, color
from genlib.task import Task
from serve.backend import ModelCard


def of(task: Task, checkpoint: Path, manifest: Manifest, name: str, max_batch: int) -> ModelCard:
    """The card of a task that was loaded from a checkpoint."""
    sizes = task.sizes(manifest.blueprint.spec)
    return ModelCard(
        name=name,
        recipe=manifest.recipe,
        step=manifest.step,
        sha256=manifest.weights_digest,
        actions={action.name: action.resolved(sizes) for action in type(task).actions()},
        sizes=sizes,
        max_batch=max_batch,
        created=int((checkpoint / "manifest.json").stat().st_mtime),
        background=color(str(manifest.data.get("background", DataConfig().background))),
    )
