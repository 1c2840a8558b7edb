"""A trained autoencoder judged: scores over the held-out samples, and pictures of what it sees in them."""

from __future__ import annotations

from pathlib import Path

import torch

from genlib.metrics.held_out import mean_values
from genlib.models.autoencoders.autoencoder import Autoencoder
from genlib.models.autoencoders.base.coding_pictures import Row, Shown, code_scores, decibels, save_map_of, save_rows, spread
from genlib.types import DataSource

_ODD = 12


def assess(task: Autoencoder, source: DataSource, folder: Path) -> dict[str, float]:
    """What `evaluate` gives, how many of 10 neighbours in code share a sample's class, and how trustworthy the map of codes is.

    Leaves `reconstructions.png`, `neighbours.png` and `codes.png`, of images and of vectors alike where they can be drawn.
    """
    scores, shown, name = mean_values(task, source), Shown.of(task, source), source.spec.validation_name
    if not len(shown.x):
        return scores
    samples = task.shaped(shown.x)
    is_image = task.shape.is_image
    found = code_scores(samples if is_image else None, task.embed(image=samples).cpu(), shown, folder)
    if is_image:
        save_reconstructions(task, folder / "reconstructions.png", shown)
    return {**scores, **{f"{name}/{key}": value for key, value in found.items()}}


@torch.no_grad()
def sheet(task: Autoencoder, source: DataSource, path: Path) -> None:
    """Held-out images and their reconstructions; of vectors the map of their codes."""
    shown = Shown.of(task, source)
    if task.shape.is_image and len(shown.x):
        save_reconstructions(task, path, shown)
    elif len(shown.x):
        save_map_of(path, task.embed(image=task.shaped(shown.x)).cpu(), shown)


def save_reconstructions(task: Autoencoder, path: Path, shown: Shown) -> None:
    """Held-out images, what the encoder saw of them where that is less, and what came of it; below them the worst of all, the anomalies."""
    odd = task.anomaly(image=task.shaped(shown.x)).cpu()
    rows = [
        *_rows(task, shown, spread(len(shown.x)), odd, task.config.denoises),
        *_rows(task, shown, odd.topk(min(_ODD, len(odd))).indices.tolist(), odd),
    ]
    title = "Held-out images above their reconstructions, with the error as a share of the image; the last two rows are the worst of all"
    if task.config.denoises:
        title = "Held-out images, what the encoder sees, what comes of it, and how near both are; then the worst reconstructed, seen without noise"
    save_rows(path, rows, title)


@torch.no_grad()
def _rows(task: Autoencoder, shown: Shown, rows: list[int], odd: torch.Tensor, corrupt: bool = False) -> list[Row]:
    x, names = shown.x[rows].to(task.device), [shown.name(row) for row in rows]
    if not corrupt:
        return [Row(task.shaped(x), names), Row(task.reconstruct(image=x), [f"{odd[row]:.1%}" for row in rows])]
    noisy = task.corrupted(x, torch.tensor(rows, device=task.device), 0)
    image, seen, made = task.shaped(x), task.shaped(noisy).clamp(0, 1), task.reconstruct(image=noisy)
    return [Row(image, names), Row(seen, decibels(seen, image)), Row(made, decibels(made, image))]
