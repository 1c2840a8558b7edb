"""What a trained generator makes: scores against held-out samples, and pictures of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genlib.charts import COLORS, chart
from genlib.encoded_batch import encoded
from genlib.metrics.checkerboard import checkerboard
from genlib.metrics.held_out import held_out
from genlib.models.adversarial.base.labelled import Labelled, nearest_label
from genlib.models.adversarial.base.players import TwoPlayers
from genlib.pictures import save_contact_sheet
from genlib.types import DataSource

MOST_SAMPLES = 2048
"""Held-out samples that are compared with as many generated ones, from the first."""
_BATCH, _SHOWN, _PATHS, _COLUMNS, _MOST_CLASSES = 256, 40, 4, 8, 10


def assess(task: TwoPlayers, source: DataSource, folder: Path) -> dict[str, float]:
    """Sliced Wasserstein distance, diversity, coverage, classes covered; of tasks on classes how many samples are of theirs, and of the class
    that is met least how many. Leaves `samples.png` in the folder, of images `interpolations.png` too.
    """
    return assessed(task, source, folder, save_pictures)


@torch.no_grad()
def assessed(
    task: TwoPlayers, source: DataSource, folder: Path, pictures: Callable[[TwoPlayers, DataSource, Path], None]
) -> dict[str, float]:  # fmt: skip
    """The scores of `assess`; images are left in the folder by another function, which gets the path `samples.png`."""
    real, made, label = samples(task, source)
    if not len(real):
        return {}
    fake = made.flatten(1)
    scores = {"sliced_wasserstein": task.distance(real, fake), **task.variety(real, fake, label)}
    if isinstance(task, Labelled) and label is not None:
        met = (nearest_label(real, label, fake) == label).double()
        scores["least_label_accuracy"] = torch.stack([met[label == number].mean() for number in label.unique()]).min()
    if task.shape.is_image:
        pictures(task, source, folder / "samples.png")
        scores["checkerboard"] = checkerboard(made)
    else:
        save_points(real, fake, folder / "samples.png")
    return {f"{source.spec.validation_name}/{name}": value.item() for name, value in scores.items()}


def samples(task: TwoPlayers, source: DataSource) -> tuple[Tensor, Tensor, Tensor | None]:
    """The first held-out samples (N, D), one generated in the place of each (N, ...) by seeds from 0 on, and the first ones' labels (N,) if they
    have some; on the CPU. (0, D) and (0, D) without such a split.
    """
    real, made, label = [torch.zeros(0, task.shape.size)], [], []
    for batch in held_out(task, source, size=_BATCH, most=MOST_SAMPLES):
        first, batch = sum(map(len, made)), encoded(task, batch)
        real.append(batch[task.networks.member].float().flatten(1).cpu())
        made.append(task.generated(task.latents(range(first, first + len(real[-1]))), *task.condition(batch)[0]).cpu())
        label += [batch["label"].cpu()] if "label" in batch else []
    return torch.cat(real), torch.cat(made) if made else real[0], torch.cat(label) if label else None


def save_pictures(task: TwoPlayers, source: DataSource, path: Path) -> None:
    """The sheet of samples, and beside it `interpolations.png`, ways from one sample to another."""
    sheet(task, source, path)
    if isinstance(task, Labelled):
        labels = range(len(task.data.class_names[:_MOST_CLASSES]))
        paths = [task.interpolate(first=0, last=1, label=[number], steps=_COLUMNS).cpu() for number in labels]
    else:
        paths = [task.interpolate(first=2 * number, last=2 * number + 1, steps=_COLUMNS).cpu() for number in range(_PATHS)]
    shares = [f"{share / (_COLUMNS - 1):.0%}" for share in range(_COLUMNS)] * len(paths)
    ways = "From one sample to another on the way between their noises, a row each"
    save_sheet(path.with_name("interpolations.png"), torch.cat(paths), shares, ways)


def sheet(task: TwoPlayers, source: DataSource, path: Path) -> None:
    """Samples by seed, of tasks on classes a class a row; of data that is no images held-out and generated points."""
    if not task.shape.is_image:
        real, made, _ = samples(task, source)
        if len(real):
            save_points(real, made.flatten(1), path)
        return
    if isinstance(task, Labelled):
        names = task.data.class_names[:_MOST_CLASSES]
        label = [number for number in range(len(names)) for _ in range(_COLUMNS)]
        made = task.generate(seed=[*range(_COLUMNS)] * len(names), label=label).cpu()
        return save_sheet(path, made, [names[number] for number in label], "Samples, a class a row and a seed a column")
    seeds = list(range(_SHOWN))
    save_sheet(path, task.generate(seed=seeds).cpu(), [f"seed {seed}" for seed in seeds], "Samples, each drawn by its own seed")


def save_sheet(path: Path, images: Tensor, captions: list[str], title: str, lines: int = 1) -> None:
    """Images (N, C, H, W) in [0, 1], eight a row, each over its caption of so many lines."""
    save_contact_sheet(path, _pixels(images), captions, columns=_COLUMNS, side=_side(images), label_lines=lines, title=title)


def _side(images: Tensor) -> int:
    """Pixels a side of images (N, C, H, W) on a sheet: a multiple of their own near 80."""
    own = images.shape[-1]
    return own * max(1, round(80 / own))


def _pixels(images: Tensor) -> list[np.ndarray]:
    return [image.permute(1, 2, 0).numpy() for image in images]


def save_points(real: Tensor, fake: Tensor, path: Path) -> None:
    """Held-out (N, D) and generated samples (N, D) in the plane in which the held-out ones differ most; on a line if D is 1."""
    if real.shape[1] == 1:
        with chart(path, width=6, height=3.2, title="Held-out and generated numbers") as axes:
            axes[0, 0].hist([real[:, 0].numpy(), fake[:, 0].numpy()], bins=60, color=COLORS[:2], label=["held-out", "generated"])
            axes[0, 0].legend()
        return
    if real.shape[1] > 2:
        center, plane = real.mean(0), torch.pca_lowrank(real, 2)[2]
        real, fake = (real - center) @ plane, (fake - center) @ plane
    low, high = real.amin(0), real.amax(0)
    (left, bottom), (right, top) = (low - 0.15 * (high - low)).tolist(), (high + 0.15 * (high - low)).tolist()
    with chart(path, columns=2, width=9, height=4.6, title="Held-out and generated samples") as axes:
        for at, (name, points) in enumerate((("held-out", real), ("generated", fake))):
            axis = axes[0, at]
            axis.scatter(*points.T.numpy(), s=5, alpha=0.5, color=COLORS[at], linewidths=0)
            axis.set(title=f"{len(points):,} {name}", xlim=(left, right), ylim=(bottom, top), aspect="equal")
