"""What there is to say of a checkpoint that is served."""

from __future__ import annotations

import json
import math
from pathlib import Path

from genlib.checkpoint import Manifest
from genlib.config import DataConfig, color
from genlib.sharing.card import CARD_FOLDER, public_name, scores_of, telling_picture
from genlib.sharing.held_out import HELD_OUT
from genlib.task import Task
from serve.backend import ModelCard, RunFacts


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
        run=run_facts(checkpoint, manifest),
    )


def run_facts(checkpoint: Path, manifest: Manifest) -> RunFacts:
    """What the run of a checkpoint left in its folder, or in that of its last stage."""
    stage = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
    folders = [stage] if (stage / "run.json").exists() else [stage, stage.parent]
    kept = [folder / CARD_FOLDER for folder in folders]
    return RunFacts(
        data=public_name(str(manifest.data.get("train", ""))),
        scores=next(filter(None, (scores(folder, manifest.step) for folder in folders)), {}),
        picture=telling_picture(*folders),
        held_out=next((folder for folder in kept if (folder / HELD_OUT).is_file()), None),
    )


def scores(folder: Path, step: int) -> dict[str, float]:
    """What a model of that step reached; nothing where the folder has no scores, or those of another step."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        if metrics.get("steps") != step:
            return {}
        return {name: value for name, value in scores_of(metrics).items() if math.isfinite(value)}
    except (OSError, ValueError, AttributeError):
        return {}
