"""What there is to say of a checkpoint that is served."""

from __future__ import annotations

from pathlib import Path

from genlib.checkpoint import Manifest
from genlib.models.autoencoders.image import ImageAutoencoder
from genlib.models.diffusion.latent import LatentTask
from genlib.task import Task
from genlib.types import DataSpec
from serve.backend import ModelCard
from serve.diversion import denoisers
from serve.schema import arguments_schema

_STEPS_OF_A_FLOW = 1000
"""Most steps where a model's time is continuous: more change nothing that can be seen."""


def of(task: Task, checkpoint: Path, manifest: Manifest, name: str, max_batch: int) -> ModelCard:
    """The card of a task that was loaded from a checkpoint."""
    actions, data = type(task).actions(), manifest.blueprint.spec
    return ModelCard(
        name=name,
        recipe=manifest.recipe,
        step=manifest.step,
        sha256=manifest.files.get("ema.safetensors") or manifest.files["weights.safetensors"],
        actions={action.name: arguments_schema(action) for action in actions},
        docs={action.name: " ".join(action.doc.split("\n\n")[0].split()) for action in actions},
        image_size=image_size(task, data),
        channels=data.channels,
        multiple=multiple(task),
        classes=data.class_names,
        max_batch=max_batch,
        max_steps=max_steps(task),
        created=int((checkpoint / "manifest.json").stat().st_mtime),
    )


def image_size(task: Task, data: DataSpec) -> int:
    """Pixels a side that it was trained on: its own setting, its image tower's, or the data's."""
    config = getattr(task, "config", None)
    sizes = (getattr(one, "image_size", 0) for one in (task, config, getattr(config, "image", None), data))
    return next((size for size in sizes if size), 0)


def multiple(task: Task) -> int:
    """Pixels of which the sides of its pictures must be multiples; 0 where there is one size alone."""
    if isinstance(task, LatentTask):
        return task.autoencoder.factor * task.config.cell
    return task.factor if isinstance(task, ImageAutoencoder) else 0


def max_steps(task: Task) -> int:
    """Steps of its noise schedule, or of that of the model it uses; 0 where it denoises nothing."""
    for one in (task, getattr(task, "model", None)):
        if (schedule := getattr(one, "schedule", None)) is not None:
            return len(schedule)
    return _STEPS_OF_A_FLOW if any(denoisers(task)) else 0
