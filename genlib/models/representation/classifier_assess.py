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
    totals, count, shown = torch.zeros(2, dtype=torch.float64), 0, []
    for batch in held_out(task, source, size=_BATCH):
        values = task.evaluate(batch)
        totals += torch.stack([values[name].sum() for name in ("accuracy", "cross_entropy")]).double().cpu()
        count += len(batch["position"])
        if len(shown) < _SHOWN:
            guesses = task.classify(image=batch["image"]).argmax(1)
            shown += list(zip(batch["image"].cpu(), batch["label"].tolist(), guesses.tolist(), strict=True))
    if not count:
        return {}
    names = task.data.class_names
    labels = [[names[label], (names[guess], "#1d7a36" if guess == label else "#b3261e")] for _, label, guess in shown[:_SHOWN]]
    images = [image.permute(1, 2, 0).numpy() for image, _, _ in shown[:_SHOWN]]
    save_contact_sheet(folder / "guesses.png", images, labels, title="Held-out images, their class, and the guess below it")
    accuracy, cross_entropy = (totals / count).tolist()
    name = source.spec.validation_name
    return {f"{name}/accuracy": accuracy, f"{name}/cross_entropy": cross_entropy}
