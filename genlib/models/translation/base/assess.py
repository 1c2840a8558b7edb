"""How well a translator does on held-out pictures, and a sheet that shows it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from genlib.metrics.held_out import held_out
from genlib.metrics.probe import linear_probe
from genlib.models.translation.base.translator import Translator, shown
from genlib.models.translation.base.two_domains import TwoDomains
from genlib.pictures import save_contact_sheet
from genlib.types import Batch, DataSource

MOST_PICTURES = 512
"""Held-out pictures that are translated, from the first; and training pictures of each domain from which the judge learns."""
_BATCH, _ROWS = 64, 8


@torch.no_grad()
def assess(task: Translator, source: DataSource, folder: Path) -> dict[str, float]:
    """Values of `evaluate` over held-out pictures; between two sets also `flipped`, the share of translations that a linear classifier of both sets'
    pictures takes for ones of the set that they were translated to. Leaves `translations.png` in the folder.
    """
    parts: list[Batch] = []
    pictures: list[Batch] = []
    for batch in held_out(task, source, size=_BATCH, most=MOST_PICTURES):
        parts.append(task.evaluation_features(batch))
        pictures.append(batch)
    if not parts:
        return {}
    features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    everything = {name: torch.cat([part[name] for part in pictures]) for name in pictures[0]}
    sheet(task, source, folder / "translations.png")
    values = task.joint_evaluation({**features, "valid": everything["valid"]})
    scores = {name: value.float().mean().item() for name, value in values.items() if name != "progress"}
    if isinstance(task, TwoDomains):
        scores["flipped"] = flipped(task, source, features)
    return {f"{source.spec.validation_name}/{name}": value for name, value in scores.items()}


def flipped(task: TwoDomains, source: DataSource, features: Batch) -> float:
    """The share of translations that the judge takes for what they are to be."""
    batches = source.batches("train", _BATCH, transform=task.transform(train=False))
    some = [{name: batch[name][batch["valid"]] for name in ("a", "b")} for batch in islice(batches, MOST_PICTURES // _BATCH)]
    a, b = (torch.cat([one[name] for one in some]).flatten(1) for name in ("a", "b"))
    made = torch.cat([features["a_made"], features["b_made"]]).flatten(1).cpu() * 2 - 1
    wanted = torch.arange(2).repeat_interleave(len(features["a_made"]))
    labels = torch.arange(2).repeat_interleave(torch.tensor([len(a), len(b)]))
    return (linear_probe(torch.cat([a, b]), labels, made, strength=1e-3) == wanted).float().mean().item()


def sheet(task: Translator, source: DataSource, path: Path) -> None:
    """The first held-out pictures, translated."""
    for batch in held_out(task, source, size=_ROWS, most=_ROWS):
        save_sheet(task, batch, path)


def save_sheet(task: Translator, batch: Batch, path: Path) -> None:
    """A row a picture: given, translated, and what it was to be or what comes back."""
    if isinstance(task, TwoDomains):
        (b, a_again), (a, b_again) = task.round_trip(batch["a"], "B"), task.round_trip(batch["b"], "A")
        columns = {"A": batch["a"], "as B": b, "A again": a_again, "B": batch["b"], "as A": a, "B again": b_again}
        title = "Held-out pictures of both sets, translated, and translated back"
        if "b_of_a" in batch:
            columns = {"A": batch["a"], "as B": b, "true B": batch["b_of_a"], **columns}
    else:
        features = task.evaluation_features(batch)
        given = batch["b"] if task.config.backwards else batch["a"]  # type: ignore[union-attr]
        columns = {"given": given, "made": features["b_made"] * 2 - 1, "true": features["b_real"] * 2 - 1}
        title = "Held-out pairs"
    images = [shown(x)[row] for row in range(len(batch["a"])) for x in columns.values()]
    labels = [name for _ in range(len(batch["a"])) for name in columns]
    save_contact_sheet(path, [_pixels(one) for one in images], labels, columns=len(columns), side=96, label_lines=1, title=title)


def _pixels(image: Tensor):
    return image.permute(1, 2, 0).cpu().numpy()
