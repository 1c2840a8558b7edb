"""A trained variational autoencoder judged: bounds and codes over the held-out samples, and pictures of what it draws."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genlib.functional.divergence import gaussian_kl
from genlib.metrics.disentanglement import mutual_information_gap
from genlib.metrics.held_out import held_out, mean_values
from genlib.models.autoencoders.base.coding_pictures import Row, Shown, cell_side, code_scores, decibels, pixels, save_map_of, save_rows, spread
from genlib.models.variational.base.factors import FactorTransform
from genlib.models.variational.vae import VAE
from genlib.pictures import save_contact_sheet
from genlib.types import DataSource

BOUND_SAMPLES = 64
"""Codes a sample of the importance-weighted bound."""
USED_NATS = 0.01
"""Mean rate above which a number of the code counts as used."""
_BOUND_NUMBERS = 2**24  # of decoded samples that are there at once: 64 MB
_SEEN_NATS = 0.1  # what carries less hardly changes a picture
_COLUMNS, _GENERATED, _STEPS, _REACH, _BOUND_BATCH = 12, 48, 9, 2.5, 100


@torch.no_grad()
def assess(task: VAE, source: DataSource, folder: Path) -> dict[str, float]:
    """What `evaluate` gives, the tighter importance-weighted bound, how many numbers of the code are in use, and how codes lie.

    Leaves `samples.png`, `reconstructions.png`, `interpolations.png`, `traversal.png`, `neighbours.png` and `codes.png`; of vectors the last alone.
    """
    scores, shown, name = mean_values(task, source), Shown.of(task, source), source.spec.validation_name
    if task.shape.is_image:
        sheet(task, source, folder / "samples.png")
    if not len(shown.x):
        return scores
    x = shown.x.to(task.device)
    mean, logvar = task.posterior(x)
    codes, nats = mean.cpu(), gaussian_kl(mean, logvar).mean(0).cpu()
    found = code_scores(task.shaped(shown.x) if task.shape.is_image else None, codes, shown, folder)
    found[f"negative_bound_{BOUND_SAMPLES}_nats"] = -bound(task, x)
    found["numbers_in_use"] = float((nats > USED_NATS).sum())
    if task.config.factors and task.config.latent_dim > 1:
        found["mutual_information_gap"] = disentanglement(task, source)
    if task.shape.is_image:
        save_reconstructions(task, folder / "reconstructions.png", shown)
        save_interpolations(task, folder / "interpolations.png", shown)
        save_traversal(task, folder / "traversal.png", codes[0], nats)
    return {**scores, **{f"{name}/{key}": value for key, value in found.items()}}


def bound(task: VAE, x: Tensor) -> float:
    """Mean importance-weighted bound of samples (N, D), nats."""
    total, size = 0.0, max(1, min(_BOUND_BATCH, _BOUND_NUMBERS // (BOUND_SAMPLES * x.shape[1])))
    for low in range(0, len(x), size):
        part = x[low : low + size]
        position = torch.arange(low, low + len(part), device=x.device)
        total += task.log_likelihood_bound(part, position, 0, BOUND_SAMPLES).double().sum().item()
    return total / len(x)


def disentanglement(task: VAE, source: DataSource) -> float:
    """The mutual information gap of the codes of all held-out samples and the factors that the configuration names."""
    found = []
    for batch in held_out(task, source, FactorTransform(task.shape, task.config.factors)):
        found.append((task.codes(batch["x"]).cpu(), batch["factors"].cpu()))
    codes, factors = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return mutual_information_gap(codes, factors)


def sheet(task: VAE, source: DataSource, path: Path) -> None:
    """Images of codes drawn from the prior, above their seeds; of vectors the map of held-out samples' codes."""
    if not task.shape.is_image:
        shown = Shown.of(task, source)
        return save_map_of(path, task.posterior(shown.x.to(task.device))[0].cpu(), shown)
    seeds = list(range(_GENERATED))
    images = task.generate(seed=seeds)
    labels, title = [f"seed {seed}" for seed in seeds], "Drawn from the prior, each by its own seed"
    save_contact_sheet(path, [pixels(image) for image in images], labels, columns=_COLUMNS, side=cell_side(images), label_lines=1, title=title)


def save_reconstructions(task: VAE, path: Path, shown: Shown) -> None:
    """Held-out images above what their codes give."""
    rows, sheet = spread(len(shown.x), 2 * _COLUMNS), []
    for low in range(0, len(rows), _COLUMNS):
        part = rows[low : low + _COLUMNS]
        images = task.shaped(shown.x[part])
        made = task.reconstruct(image=images).cpu()
        sheet += [Row(images, [shown.name(row) for row in part]), Row(made, decibels(made, images))]
    save_rows(path, sheet, "Held-out images above their reconstructions from the mean code, and how near these are")


def save_interpolations(task: VAE, path: Path, shown: Shown) -> None:
    """Between pairs of held-out images, along the line between their codes."""
    rows = spread(len(shown.x), 2 * 6)
    half = len(rows) // 2
    if not half:
        return
    first, second = (task.shaped(shown.x[part]) for part in (rows[:half], rows[half : 2 * half]))
    paths = task.interpolate(first=first, second=second, steps=_STEPS)
    labels = [f"{step / (_STEPS - 1):.0%}" for step in range(_STEPS)]
    sheet = [
        Row(torch.cat([a[None], path.cpu(), b[None]]), [shown.name(one), *labels, shown.name(other)])
        for a, path, b, one, other in zip(first, paths, second, rows, rows[half:], strict=False)
    ]
    save_rows(path, sheet, "From the left image to the right one, on the line between their codes", columns=_STEPS + 2)


def save_traversal(task: VAE, path: Path, code: Tensor, nats: Tensor) -> None:
    """One held-out image's code (K,) with one number at a time moved through the prior, those that carry most nats (K,) first."""
    used = max(1, int((nats > _SEEN_NATS).sum()))
    most = nats.argsort(descending=True)[: min(10, used)].tolist()
    places = torch.linspace(-_REACH, _REACH, _STEPS)
    codes = code.repeat(len(most), _STEPS, 1)
    for row, number in enumerate(most):
        codes[row, :, number] = places
    images = task.decode(code=codes.flatten(0, 1)).unflatten(0, (len(most), _STEPS))
    labels = [f"{place:+.1f}" for place in places.tolist()]
    sheet = [Row(images[row], [f"z{number}: {nats[number]:.1f} nats", *labels[1:]]) for row, number in enumerate(most)]
    title = f"One number of the code at a time, from {-_REACH:g} to {_REACH:g}; the most telling first"
    save_rows(path, sheet, title, columns=_STEPS)
