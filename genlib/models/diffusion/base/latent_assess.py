"""Pictures of a trained latent diffusion model, and its loss on held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genlib.encoded_batch import encoded
from genlib.metrics.held_out import held_out
from genlib.models.diffusion.base.latent import LatentTask
from genlib.pictures import save_contact_sheet
from genlib.types import DataSource

MOST_SAMPLES = 1024
"""Held-out samples on which the loss is taken, from the first."""
GUIDANCE_SCALES = (1.0, 2.0, 4.0, 7.0)
"""The scales that `guidance.png` compares."""
_BATCH, _PROMPTS, _COLUMNS, _SEEDS = 32, 32, 16, 2


@torch.no_grad()
def assess(task: LatentTask, source: DataSource, folder: Path) -> dict[str, float]:
    """The loss on held-out samples. Leaves `prompts.png`, every prompt from two noises, and `guidance.png`, the first ones at several scales."""
    sheet(task, source, folder / "prompts.png")
    few = prompts_of(task, source)[:_COLUMNS]
    rows = [pictures(task, few, seed=0, guidance_scale=scale) for scale in GUIDANCE_SCALES]
    labels = [[f"{prompt} ({scale:g})" for prompt in few] for scale in GUIDANCE_SCALES]
    save_sheet(folder / "guidance.png", rows, labels, "The same noises at guidance " + ", ".join(f"{scale:g}" for scale in GUIDANCE_SCALES))
    return {f"{source.spec.validation_name}/{name}": value for name, value in losses(task, source).items()}


def sheet(task: LatentTask, source: DataSource, path: Path) -> None:
    """Every prompt from two noises."""
    prompts = prompts_of(task, source)
    rows = [pictures(task, prompts, seed=100 * row) for row in range(_SEEDS)]
    save_sheet(path, rows, [prompts] * _SEEDS, f"Each prompt from {_SEEDS} noises; guidance {task.config.guidance_scale:g}")


def prompts_of(task: LatentTask, source: DataSource) -> list[str]:
    """Those of the configuration, else captions."""
    return list(task.config.prompts) or list(source.captions("validation", _PROMPTS)) or list(source.captions("train", _PROMPTS))


def pictures(task: LatentTask, prompts: Sequence[str], seed: int, **options: float) -> Tensor:
    """One picture a prompt, (len(prompts), C, H, W) in [0, 1], with seeds from `seed` on."""
    parts = []
    for first in range(0, len(prompts), _BATCH):
        some = list(prompts[first : first + _BATCH])
        parts.append(task.generate(prompt=some, seed=list(range(seed + first, seed + first + len(some))), **options).cpu())  # type: ignore[arg-type]
    return torch.cat(parts)


def save_sheet(path: Path, rows: Sequence[Tensor], labels: Sequence[Sequence[str]], title: str) -> None:
    """A sheet of rows of pictures, each above its label; rows longer than the sheet go on below."""
    images, texts = [], []
    for low in range(0, len(rows[0]), _COLUMNS):
        for row, names in zip(rows, labels, strict=True):
            images += [picture.permute(1, 2, 0).numpy() for picture in row[low : low + _COLUMNS]]
            texts += names[low : low + _COLUMNS]
    save_contact_sheet(path, images, texts, columns=min(_COLUMNS, len(rows[0])), side=96, title=title)


def losses(task: LatentTask, source: DataSource) -> dict[str, float]:
    """Means of `evaluate` over held-out samples, each at one time with one noise; {} where there are none."""
    totals: dict[str, float] = {}
    count = 0
    for batch in held_out(task, source, size=_BATCH, most=MOST_SAMPLES):
        count += len(batch["position"])
        for name, value in task.evaluate(encoded(task, batch)).items():
            totals[name] = totals.get(name, 0.0) + value.sum().item()
    return {name: total / count for name, total in totals.items()}
