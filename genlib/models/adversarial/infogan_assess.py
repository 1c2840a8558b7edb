"""What the codes of an InfoGAN stand for: scores against held-out samples, and pictures of every category and number."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genlib.metrics.held_out import held_out
from genlib.models.adversarial.base import assess as players
from genlib.models.adversarial.base.labelled import nearest_label
from genlib.models.adversarial.infogan import InfoGAN
from genlib.types import DataSource

_COLUMNS, _MOST_CATEGORIES = 8, 10


@torch.no_grad()
def assess(task: InfoGAN, source: DataSource, folder: Path) -> dict[str, float]:
    """As of all two players; and of data with labels how well categories and labels agree, in samples and in what Q reads in held-out ones. Leaves,
    of images, `codes.png` too.
    """
    scores = players.assess(task, source, folder)
    if not scores:
        return {}
    if task.shape.is_image:
        save_codes(task, folder / "codes.png")
    real, label, read = [], [], []
    for batch in held_out(task, source, size=256, most=players.MOST_SAMPLES):
        x = batch[task.networks.member]
        real.append(x.flatten(1).cpu())
        label += [batch["label"].cpu()] if "label" in batch else []
        read.append(task.read(image=task.shape.image(x.flatten(1)) if task.shape.is_image else x)[:, : task.codes.categories].argmax(1).cpu())
    if not label:
        return scores
    noise = task.latents(range(len(torch.cat(real))))
    made = task.generated(noise).flatten(1).cpu()
    category = task.code(noise)[:, : task.codes.categories].argmax(1).cpu()
    found = {
        "code_recovery": purity(nearest_label(torch.cat(real), torch.cat(label), made), category),
        "label_recovery": purity(torch.cat(read), torch.cat(label)),
    }
    return {**scores, **{f"{source.spec.validation_name}/{name}": value for name, value in found.items()}}


def purity(given: Tensor, asked: Tensor) -> float:
    """How often the second of two numbers (N,) int64 is right if for each value of the first its commonest one is guessed."""
    counts = torch.zeros(int(given.max()) + 1, int(asked.max()) + 1).index_put_((given, asked), torch.ones(len(given)), accumulate=True)
    return (counts.amax(1).sum() / len(given)).item()


def save_codes(task: InfoGAN, path: Path) -> None:
    """A row of seeds for each category, and of each number a row in which it goes from -1 to 1."""
    codes, seeds, captions = [], [], []
    for category in range(min(_MOST_CATEGORIES, task.codes.categories)):
        code = torch.zeros(_COLUMNS, task.codes.size)
        code[:, category] = 1
        codes.append(code)
        seeds += range(_COLUMNS)
        captions += [f"category {category}"] * _COLUMNS
    for number in range(task.codes.numbers):
        code = torch.zeros(_COLUMNS, task.codes.size)
        code[:, 0] = 1
        code[:, task.codes.categories + number] = torch.linspace(-1, 1, _COLUMNS)
        codes.append(code)
        seeds += [0] * _COLUMNS
        captions += [f"n{number} = {value:.2f}" for value in torch.linspace(-1, 1, _COLUMNS).tolist()]
    made = task.decode(seed=seeds, code=torch.cat(codes)).cpu()
    players.save_sheet(path, made, captions, "A category a row, a seed a column; below, each number from one end to the other")
