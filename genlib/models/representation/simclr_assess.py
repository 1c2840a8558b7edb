"""How good the features of a trained encoder are, beside those of an untrained one and the bare pixels; and a sheet of neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.data.transforms.plain import PlainTransform
from genlib.metrics.neighbours import nearest
from genlib.metrics.probe import linear_probe, neighbour_vote
from genlib.models.representation.simclr import SimCLR
from genlib.pictures import Line, save_contact_sheet
from genlib.types import Batch, DataSource

MOST_IMAGES = 5_000
"""Of each split that scores are taken on: held-out ones from the first, training ones in the order of training."""
_BATCH, _QUERIES, _NEIGHBOURS, _SHEET_IMAGES = 256, 10, 7, 1024
_QUERY, _RIGHT, _WRONG = "#1f4e9c", "#1d7a36", "#b3261e"


@torch.no_grad()
def assess(task: SimCLR, source: DataSource, folder: Path) -> dict[str, float]:
    """Accuracy on held-out images of a linear probe and of a vote of neighbours that know the labels of training images.

    The same for an encoder as it is before training (`untrained_`) and for pixels (`pixels_`). Leaves `neighbours.png` in the
    folder. Without labels only the picture.
    """
    known, held_out = (collect(source, split, task.image_size) for split in ("train", "validation"))
    if "image" not in held_out:
        return {}
    before = _untrained(task)
    spaces: dict[str, Callable[[Tensor], Tensor]] = {"": task.net.features, "untrained_": before.net.features, "pixels_": _pixels}
    codes = {name: (encoded(task, known, encode), encoded(task, held_out, encode)) for name, encode in spaces.items()}
    save_neighbours(task, known, held_out, *codes[""], folder / "neighbours.png")
    if "label" not in known or "label" not in held_out:
        return {}
    scores: dict[str, float] = {}
    for name, (train, test) in codes.items():
        for score, predict in (("linear_probe", linear_probe), ("knn", neighbour_vote)):
            right = predict(train, known["label"], test) == held_out["label"]
            scores[f"{source.spec.validation_name}/{name}{score}_accuracy"] = right.double().mean().item()
    return scores


@torch.no_grad()
def sheet(task: SimCLR, source: DataSource, path: Path) -> None:
    """Held-out images and their nearest among the first training images; fewer of these than `assess` looks at."""
    known, held_out = (collect(source, split, task.image_size, _SHEET_IMAGES) for split in ("train", "validation"))
    if "image" in held_out:
        codes, queries = (encoded(task, some, task.net.features) for some in (known, held_out))
        save_neighbours(task, known, held_out, codes, queries, path)


def collect(source: DataSource, split: str, image_size: int, most: int = MOST_IMAGES) -> Batch:
    """The first images of a split and, where there are some, labels; those that could not be read are left out."""
    most = min(most, source.spec.num_samples) if split == "train" else most  # that split goes on for ever
    found: dict[str, list[Tensor]] = {"image": [], "label": []}
    for batch in islice(_plain(source, split, image_size), -(-most // _BATCH)):
        for name in found:
            found[name] += [batch[name][batch["valid"]]] if name in batch else []
    return {name: torch.cat(parts)[:most] for name, parts in found.items() if parts}


def _plain(source: DataSource, split: str, image_size: int) -> Iterator[Batch]:
    return source.batches(split, _BATCH, transform=PlainTransform(image_size))


def _pixels(image: Tensor) -> Tensor:
    return image.flatten(1)


def _untrained(task: SimCLR) -> SimCLR:
    """The same task with random weights, always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SimCLR(task.config, task.data).to(task.device).eval()


@torch.no_grad()
def encoded(task: SimCLR, batch: Batch, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """What becomes of the batch's images on the task's device, a few at a time. -> (N, D) on the CPU."""
    return torch.cat([encode(part.to(task.device)).cpu() for part in batch["image"].split(_BATCH)])


def save_neighbours(task: SimCLR, known: Batch, held_out: Batch, codes: Tensor, queries: Tensor, path: Path) -> None:
    """A sheet with a held-out image a row and the training images that are nearest to it; green has its class, red another.

    codes (N, D) of the images `known`, queries (M, D) of the images `held_out`.
    """
    chosen = spread(held_out.get("label"), len(queries))
    found = nearest(F.normalize(queries[chosen], dim=1), F.normalize(codes, dim=1), min(_NEIGHBOURS, len(codes)))
    labelled = "label" in known and "label" in held_out
    images: list[np.ndarray] = []
    labels: list[list[Line]] = []
    for query, rows in zip(chosen, found.tolist(), strict=True):
        cells = [held_out["image"][query], *known["image"][rows]]
        images += [cell.permute(1, 2, 0).numpy() for cell in cells]
        labels += _told(task, held_out["label"][query], known["label"][rows]) if labelled else [[("held out", _QUERY)], *([] for _ in rows)]
    title = "Held-out images (left) and their nearest training images" + (": green of its class, red of another" if labelled else "")
    save_contact_sheet(path, images, labels, columns=found.shape[1] + 1, side=max(1, 96 // task.image_size) * task.image_size, title=title)


def _told(task: SimCLR, own: Tensor, others: Tensor) -> list[list[Line]]:
    """What stands below an image of class `own` () and its neighbours (K,)."""
    names = task.data.class_names or [str(number) for number in range(1 + max(int(own), int(others.max())))]
    return [[(names[int(own)], _QUERY)], *([(names[int(other)], _RIGHT if other == own else _WRONG)] for other in others)]


def spread(labels: Tensor | None, count: int) -> list[int]:
    """At most ten of `count` images, of as many classes as there are, from the first."""
    if labels is None:
        return list(range(min(_QUERIES, count)))
    taken = torch.zeros(len(labels), dtype=torch.int64)
    for label in labels.unique():  # which of its class an image is
        rows = labels == label
        taken[rows] = torch.arange(int(rows.sum()))
    return sorted(torch.argsort(taken, stable=True)[:_QUERIES].tolist(), key=lambda row: int(labels[row]))
