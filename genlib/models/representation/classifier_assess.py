"""How well a trained classifier names held-out images, and a sheet of its guesses."""

from __future__ import annotations

from pathlib import Path

import torch

from genlib.metrics.held_out import held_out
from genlib.models.representation.classifier import Classifier
from genlib.pictures import save_contact_sheet
from genlib.types import DataSource

_BATCH, _SHOWN = 256, 24


@torch.no_grad()
def assess(task: Classifier, source: DataSource, folder: Path) -> dict[str, float]:
    """Accuracy and cross-entropy (nats) over all held-out samples; `guesses.png` shows the first ones."""
    totals, count = torch.zeros(2, dtype=torch.float64), 0
    for batch in held_out(task, source, size=_BATCH):
        values = task.evaluate(batch)
        totals += torch.stack([values[name].sum() for name in ("accuracy", "cross_entropy")]).double().cpu()
        count += len(batch["position"])
    if not count:
        return {}
    sheet(task, source, folder / "guesses.png")
    accuracy, cross_entropy = (totals / count).tolist()
    name = source.spec.validation_name
    return {f"{name}/accuracy": accuracy, f"{name}/cross_entropy": cross_entropy}


def sheet(task: Classifier, source: DataSource, path: Path) -> None:
    """The first held-out images, each with its class and the guess."""
    names = task.data.class_names
    for batch in held_out(task, source, size=_SHOWN, most=_SHOWN):
        guesses = task.classify(image=batch["image"]).argmax(1).tolist()
        pairs = zip(batch["label"].tolist(), guesses, strict=True)
        labels = [[names[label], (names[guess], "#1d7a36" if guess == label else "#b3261e")] for label, guess in pairs]
        images = [image.permute(1, 2, 0).cpu().numpy() for image in batch["image"]]
        save_contact_sheet(path, images, labels, title="Held-out images, their class, and the guess below it")
