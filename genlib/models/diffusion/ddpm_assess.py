"""What a trained pixel diffusion draws, on a sheet, and its held-out loss."""

from __future__ import annotations

from pathlib import Path

import torch

from genlib.metrics.held_out import held_out
from genlib.models.diffusion.ddpm import ClassDDPM, PixelDiffusion
from genlib.pictures import save_contact_sheet
from genlib.types import DataSource

MOST_PICTURES = 5_000
"""Held-out pictures that the loss is a mean over, from the first."""
_BATCH, _SHOWN, _CLASSES, _EACH = 250, 40, 10, 8


@torch.no_grad()
def assess(task: PixelDiffusion, source: DataSource, folder: Path) -> dict[str, float]:
    """The loss on held-out pictures at times and noise that are always the same. Leaves `contact_sheet.png` in the folder."""
    sheet(task, source, folder / "contact_sheet.png")
    total, count = 0.0, 0
    for batch in held_out(task, source, size=_BATCH, most=MOST_PICTURES):
        total += task.evaluate(batch)["loss"].sum().item()
        count += len(batch["position"])
    return {f"{source.spec.validation_name}/loss": total / count} if count else {}


def sheet(task: PixelDiffusion, source: DataSource, path: Path) -> None:
    """Samples with seeds from 0 on; on classes a row a class, labelled, half of it with guidance."""
    if not isinstance(task, ClassDDPM):
        pictures = task.sample(task.of_no_class, list(range(_SHOWN)))
        labels, title = [""] * _SHOWN, "Samples"
    else:
        shown = range(min(_CLASSES, len(task.data.class_names)))
        classes = [label for label in shown for _ in range(_EACH)]
        seeds = list(range(len(classes)))
        guidance = 2.0 if task.label_dropout else 1.0
        plain, guided = (task.generate(seed=seeds, label=classes, guidance_scale=scale) for scale in (1.0, guidance))
        half = torch.arange(len(classes)) % _EACH < _EACH // 2
        pictures = torch.where(half.to(plain.device)[:, None, None, None], plain, guided)
        labels = [task.data.class_names[label] for label in classes]
        title = f"Samples of each class: four as they come, four with guidance {guidance:g}"
    save_contact_sheet(path, [picture.permute(1, 2, 0).cpu().numpy() for picture in pictures], labels, columns=8, side=64, label_lines=1, title=title)
