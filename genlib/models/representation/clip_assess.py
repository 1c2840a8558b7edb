"""Scores of a trained CLIP on held-out pairs, and a sheet of images that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from genlib.metrics.retrieval import recall
from genlib.models.representation.clip import CLIP
from genlib.pictures import Line, save_contact_sheet
from genlib.types import DataSource

MOST_PAIRS = 50_000
"""Held-out pairs that are scored, from the first; ImageNet's validation set has as many."""
_BATCH, _SHOWN, _GUESSES, _SHEET_PAIRS = 256, 24, 5, 2000
_NAME, _HIT, _MISS = "#1a4fa3", "#1d7a36", "#777777"


def assess(task: CLIP, source: DataSource, folder: Path) -> dict[str, float]:
    """Retrieval over the held-out pairs, all captions being candidates; the same with templates is zero-shot classification.

    Keys are open_clip's names after the held-out set's own. Leaves `contact_sheet.png` in the folder.
    """
    captions = list(source.captions("validation", MOST_PAIRS))
    if not captions:
        return {}
    shown = spread(len(captions))
    images, counts, pictures = _embedded(task, source, len(captions), shown)
    plain, named = task.label_directions(captions, ("{}",)).cpu(), task.label_directions(captions).cpu()
    save_guesses(folder / "contact_sheet.png", pictures, [captions[i] for i in shown], captions, images[shown] @ named.T)
    images, plain, named = images[counts], plain[counts], named[counts]
    name, zero_shot = source.spec.validation_name, recall(images, named, (1, 5))
    return {f"{name}/{key}": value for key, value in recall(images, plain).items()} | {
        f"{name}-zeroshot-val-top{k}": zero_shot[f"image_to_text_R@{k}"] for k in (1, 5)
    }


def sheet(task: CLIP, source: DataSource, path: Path) -> None:
    """Some of the first held-out images with their names, and the nearest names of all of these; fewer than `assess` looks at."""
    captions = list(source.captions("validation", _SHEET_PAIRS))
    if captions:
        shown = spread(len(captions))
        images, _, pictures = _embedded(task, source, len(captions), shown)
        save_guesses(path, pictures, [captions[i] for i in shown], captions, images[shown] @ task.label_directions(captions).cpu().T)


def spread(count: int) -> list[int]:
    """At most `_SHOWN` of so many numbers, evenly."""
    return [int((i + 0.5) * count / _SHOWN) for i in range(_SHOWN)] if count > _SHOWN else list(range(count))


@torch.no_grad()
def _embedded(task: CLIP, source: DataSource, count: int, shown: Sequence[int]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Of the first held-out images their directions (count, D), which of them could be read (count,), and those to show (C, H, W) in [0, 1]."""
    directions, counts, pictures = [], [], []
    batches = source.batches("validation", _BATCH, transform=task.transform(train=False))
    for first, batch in zip(range(0, count, _BATCH), batches, strict=False):
        directions.append(task.net.embed_image(batch["image"].to(task.device)).cpu())
        counts.append(batch["valid"])
        pictures += [task.pixels(batch["image"][i - first]) for i in shown if first <= i < first + _BATCH]
    return torch.cat(directions)[:count], torch.cat(counts)[:count], pictures


def save_guesses(path: Path, images: Sequence[Tensor], truths: Sequence[str], names: Sequence[str], similarity: Tensor) -> None:
    """A sheet of images (C, H, W) in [0, 1], each with its true name and the nearest of `names` (N,), by similarity (images, N)."""
    best: list[list[int]] = similarity.topk(min(_GUESSES, len(names))).indices.tolist()
    labels: list[list[Line]] = []
    for truth, row in zip(truths, best, strict=True):
        labels.append([(truth, _NAME), *((names[i], _HIT if names[i] == truth else _MISS) for i in row)])
    found = sum(truth in [names[i] for i in row] for truth, row in zip(truths, best, strict=True))
    save_contact_sheet(
        path, [image.permute(1, 2, 0).numpy() for image in images], labels, columns=8, side=128,
        title=f"Unseen images with their names (blue) and the {_GUESSES} best guesses of {len(names):,}: {found} of {len(images)} found",
    )  # fmt: skip
