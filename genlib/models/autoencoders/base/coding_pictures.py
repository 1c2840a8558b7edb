"""What autoencoders of all kinds show of their codes: reconstructions, neighbours, and a map of the codes by t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlib.charts import COLORS, chart
from genlib.functional.perceptual import psnr_db
from genlib.metrics.held_out import BATCH, held_out
from genlib.metrics.neighbours import nearest, neighbour_precision
from genlib.pictures import Line, save_contact_sheet
from genlib.task import Task
from genlib.types import Batch, DataSource

SHOWN_SAMPLES = 1000
"""Held-out samples, from the first, whose codes are mapped and searched."""
_COLUMNS, _NEIGHBOURS, _QUERIES, _COUNTED = 12, 11, 6, 10
_FEWEST = 32  # codes that make a map
_RIGHT, _WRONG = "#1d7a36", "#b3261e"


@dataclass(frozen=True, slots=True)
class Shown:
    """Some held-out samples and what names they have."""

    x: Tensor
    """(N, D) on the CPU."""
    labels: Tensor | None
    """(N,) int64 where there are classes."""
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, task: Task, source: DataSource) -> Shown:
        """The first held-out samples."""
        found: list[Batch] = []
        for _, batch in zip(range(SHOWN_SAMPLES // BATCH), held_out(task, source), strict=False):
            found.append({name: value.cpu() for name, value in batch.items()})
        x = torch.cat([batch["x"] for batch in found]) if found else torch.zeros(0, 1)
        labels = torch.cat([batch["label"] for batch in found]) if found and "label" in found[0] else None
        return cls(x, labels, source.spec.class_names)

    def name(self, row: int) -> str:
        """Its class in words; empty without one."""
        if self.labels is None:
            return ""
        label = int(self.labels[row])
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)


def code_scores(images: Tensor | None, codes: Tensor, shown: Shown, folder: Path) -> dict[str, float]:
    """How many of the 10 nearest in code share a sample's class, and how trustworthy the map of codes (N, K) is; what does not apply is left out.

    Leaves `codes.png`, and `neighbours.png` where there are images (N, C, H, W).
    """
    scores = {"trustworthiness": save_map(folder / "codes.png", codes, shown)} if len(codes) >= _FEWEST else {}
    if shown.labels is not None and len(codes) > _COUNTED:
        scores["neighbour_precision"] = neighbour_precision(codes, shown.labels, _COUNTED)
    if images is not None and len(codes) > 1:
        save_neighbours(folder / "neighbours.png", images, codes, shown)
    return scores


def pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, C)."""
    return image.permute(1, 2, 0).cpu().numpy()


def decibels(made: Tensor, images: Tensor) -> list[str]:
    """How near each image (N, C, H, W) is to another in [0, 1], as a label."""
    return [f"{value:.1f} dB" for value in psnr_db(made, images).tolist()]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a sheet: an image and its label a column."""

    images: Tensor
    labels: Sequence[str | Sequence[Line]]


def cell_side(images: Tensor) -> int:
    """Pixels a side of images (N, C, H, W) on a sheet: a multiple of their own near 80."""
    own = max(images.shape[2:])
    return own * max(1, round(80 / own))


def save_rows(path: Path, rows: Sequence[Row], title: str, *, columns: int = _COLUMNS) -> None:
    """A sheet whose columns stand below each other; images (N, C, H, W) with N at most `columns`."""
    images: list[np.ndarray] = []
    labels: list[str | Sequence[Line]] = []
    for row in rows:
        blank = columns - len(row.images)
        images += [*map(pixels, row.images), *[np.ones((1, 1))] * blank]
        labels += [*row.labels, *[""] * blank]
    save_contact_sheet(path, images, labels, columns=columns, side=cell_side(rows[0].images), label_lines=1, title=title)


def spread(count: int, wanted: int = _COLUMNS) -> list[int]:
    """`wanted` of `count` numbers, evenly, or all."""
    return [i * count // min(count, wanted) for i in range(min(count, wanted))]


def save_neighbours(path: Path, images: Tensor, codes: Tensor, shown: Shown) -> None:
    """Some images (N, C, H, W), each before those of the others whose codes (N, K) are nearest; those of its class are named in green."""
    count = min(_NEIGHBOURS, len(codes) - 1)
    rows = spread(len(codes), _QUERIES)
    sheet = []
    for query, found in zip(rows, nearest(codes[rows], codes, count + 1).tolist(), strict=True):
        others = [other for other in found if other != query][:count]
        kinds: list[Sequence[Line]] = [[(shown.name(other), _RIGHT if shown.name(other) == shown.name(query) else _WRONG)] for other in others]
        sheet.append(Row(images[[query, *others]], [[shown.name(query)], *kinds]))
    save_rows(path, sheet, "A held-out image, first, and the others nearest to it in code", columns=count + 1)


def in_plane(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows (N, K) as places (N, 2) by t-SNE (van der Maaten & Hinton 2008, JMLR 9); as they are where K is 2."""
    from sklearn.manifold import TSNE

    size = values.shape[1]
    if size == 2:
        return values
    return TSNE(perplexity=min(30, len(values) // 4), init="pca" if size > 2 else "random", random_state=seed).fit_transform(values)


def save_map_of(path: Path, codes: Tensor, shown: Shown) -> None:
    """The map of codes (N, K), where they are enough for one."""
    if len(codes) >= _FEWEST:
        save_map(path, codes, shown)


def save_map(path: Path, codes: Tensor, shown: Shown, *, seed: int = 0) -> float:
    """Codes (N, K) in the plane, coloured by class; returns how trustworthy that map is at 10 neighbours (Venna & Kaski 2001), 1 being wholly."""
    from sklearn.manifold import trustworthiness

    values = codes.numpy().astype(np.float64)
    places = in_plane(values, seed)
    trust = float(trustworthiness(values, places, n_neighbors=10))
    with chart(path, width=7.5, height=6) as axes:
        draw_map(axes[0, 0], places, shown)
        how = f" by t-SNE; trustworthiness at 10 neighbours {trust:.3f}" if values.shape[1] != 2 else ""
        axes[0, 0].set_title(f"Codes of {len(codes):,} held-out samples{how}")
    return trust


def draw_map(axes: Any, places: np.ndarray, shown: Shown) -> None:
    """Points (N, 2), a colour a class."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    if shown.labels is None:
        axes.scatter(*places.T, s=9, color=COLORS[0])
        return
    labels = shown.labels.numpy()
    for number, label in enumerate(np.unique(labels)):
        mine = labels == label
        axes.scatter(*places[mine].T, s=9, color=COLORS[number % len(COLORS)], label=shown.name(int(np.flatnonzero(mine)[0])))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
