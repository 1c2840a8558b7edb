"""How well a deep belief network classifies, and what its stack draws."""

from __future__ import annotations

from pathlib import Path

import torch

from genlib.metrics.held_out import held_out
from genlib.models.energy.base.rbm_assess import MOST_SAMPLES, arrays, save_dreams, save_filters
from genlib.models.energy.dbn import DBN
from genlib.pictures import save_contact_sheet
from genlib.types import DataSource

_SHOWN, _DREAMS = 24, 48


@torch.no_grad()
def assess(task: DBN, source: DataSource, folder: Path) -> dict[str, float]:
    """Error and cross-entropy (nats) on held-out samples; of images `guesses.png`, of a stack `samples.png` and `filters.png` of its top."""
    batches = list(held_out(task, source, most=MOST_SAMPLES))
    if task.shape.is_image:
        sheet(task, source, folder / "guesses.png")
    if task.shape.is_image and task.top is not None:
        seeds = list(range(_DREAMS))
        title = "Samples, each by its own seed: 1,000 Gibbs steps at the top of the stack, then down"
        save_dreams(task.generate(seed=seeds), seeds, title, folder / "samples.png")
        save_filters(task.top, folder / "filters.png")
    values = [task.evaluate(batch) for batch in batches]
    scores = {name: torch.cat([value[name] for value in values]).double().mean().item() for name in (values[0] if values else ())}
    renamed = {"cross_entropy" if name == "loss" else name: value for name, value in scores.items()}
    return {f"{source.spec.validation_name}/{name}": value for name, value in renamed.items()}


def sheet(task: DBN, source: DataSource, path: Path) -> None:
    """The first held-out images with their class and the guess."""
    if not task.shape.is_image:
        return
    for batch in held_out(task, source, size=_SHOWN, most=_SHOWN):
        names, guesses = task.data.class_names, task.logits(batch["x"]).argmax(1).tolist()
        labels = [
            [names[true], (names[guess], "#1d7a36" if guess == true else "#b3261e")]
            for true, guess in zip(batch["label"].tolist(), guesses, strict=True)
        ]
        save_contact_sheet(path, arrays(task.shape.image(batch["x"])), labels, title="Held-out images, their class, and the guess below it")
