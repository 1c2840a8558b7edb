"""What a trained RBM is worth: its likelihood, how it tells data from noise; and what it looks like: filters, denoised samples, dreams."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genlib.charts import COLORS, chart
from genlib.encoded_batch import encoded
from genlib.functional.gibbs import BernoulliUnits, Draw
from genlib.functional.partition import MOST_ENUMERATED, annealed_log_partition, enumerated_units, log_partition
from genlib.metrics.held_out import held_out
from genlib.models.energy.base.contrastive import ContrastiveTask
from genlib.pictures import save_contact_sheet
from genlib.types import Batch, DataSource

MOST_SAMPLES = 10_000
"""Held-out samples that scores are means over, from the first."""
_BATCH, _SHOWN, _FILTERS, _DREAMS, _DREAM_COLUMNS, _POINTS, _SIDE = 500, 12, 48, 48, 12, 2000, 64
_EXACT = min(20, MOST_ENUMERATED)  # 2**20 states are added up in seconds
_FLIPPED, _ADDED = 0.1, 0.3
_STEPS, _CHAINS = 2000, 100


@torch.no_grad()
def assess(task: ContrastiveTask, source: DataSource, folder: Path) -> dict[str, float]:
    """Held-out scores; leaves pictures in the folder.

    `log_likelihood` (nats a sample, a density for Gaussian units) with `log_partition_error`, the standard error of log Z, 0 where Z is
    exact; `auroc_noise`, the chance that the free energy of a sample is below that of noise with the same means, where each number comes
    from another sample; and `evaluate`'s values.
    """
    batches = list(held_out(task, source, size=_BATCH, most=MOST_SAMPLES))
    save_pictures(task, source, batches, folder)
    if not batches:
        return {}
    x = torch.cat([batch["x"] for batch in batches])
    values = [task.evaluate(encoded(task, batch)) for batch in batches]
    scores = {name: torch.cat([value[name] for value in values]).double().mean().item() for name in values[0]}
    scores |= likelihood(task, x, torch.cat([batch["position"] for batch in batches]))
    scores["auroc_noise"] = auroc(*(task.params().free_energy(task.to_visible(some)) for some in (x, shuffled(x))))
    return {f"{source.spec.validation_name}/{name}": value for name, value in scores.items()}


def likelihood(task: ContrastiveTask, x: Tensor, position: Tensor) -> dict[str, float]:
    """Log-likelihood of samples x (B, D), exactly or by annealed importance sampling."""
    rbm, v = task.params(), task.drawn(task.to_visible(x), Draw(position))
    if enumerated_units(rbm) <= _EXACT:
        log_z, error = log_partition(rbm), 0.0
    else:
        log_z, error = annealed_log_partition(rbm, task.net.base, steps=_STEPS, chains=_CHAINS)
    mean = -rbm.free_energy(v).double().mean().item() - log_z + task.log_density
    return {"log_likelihood": mean, "log_partition_error": error}


def shuffled(x: Tensor) -> Tensor:
    """Samples (B, D) of which each number comes from another sample: all means stay, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(x.shape, generator=generator).argsort(0).to(x.device)
    return x.gather(0, rows)


def auroc(low: Tensor, high: Tensor) -> float:
    """The chance that one of `low` (N,) is below one of `high` (M,), ties counting half."""
    high = high.sort().values
    wins = 2 * len(high) - torch.searchsorted(high, low) - torch.searchsorted(high, low, right=True)
    return wins.double().mean().item() / (2 * len(high))


def save_pictures(task: ContrastiveTask, source: DataSource, batches: list[Batch], folder: Path) -> None:
    """`filters.png`, `samples.png` and, of held-out batches, `denoised.png` of images; `samples.png` alone of vectors."""
    sheet(task, source, folder / "samples.png")
    if not task.shape.is_image:
        return
    save_filters(task, folder / "filters.png")
    if batches:
        save_denoised(task, batches[0]["x"][:_SHOWN], folder / "denoised.png")


def sheet(task: ContrastiveTask, source: DataSource, path: Path) -> None:
    """Samples by seed; of vectors as points, beside those of the data."""
    seeds = list(range(_DREAMS if task.shape.is_image else _POINTS))
    dreams = task.generate(seed=seeds)
    if task.shape.is_image:
        return save_dreams(dreams, seeds, "Samples, each the end of a chain of 1,000 Gibbs steps of its own seed", path)
    known = next(iter(source.batches("train", _POINTS, transform=task.transform(train=False))))
    save_scatter(known["x"], dreams, path)


def save_dreams(dreams: Tensor, seeds: list[int], title: str, path: Path) -> None:
    """Drawn images (B, C, H, W) above their seeds."""
    labels = [f"seed {seed}" for seed in seeds]
    save_contact_sheet(path, arrays(dreams), labels, columns=_DREAM_COLUMNS, side=_SIDE, label_lines=1, title=title)


def arrays(images: Tensor) -> list:
    """Images (B, C, H, W) as arrays (H, W, C)."""
    return [image.permute(1, 2, 0).cpu().numpy() for image in images]


def save_filters(task: ContrastiveTask, path: Path) -> None:
    """What the strongest hidden units add to an image, through all layers below; grey is nothing."""
    weight = filters(task)
    order = weight.norm(dim=1).argsort(descending=True)[:_FILTERS]
    shown = 0.5 + 0.5 * weight[order] / weight[order].abs().amax(1, keepdim=True).clamp(min=1e-12)
    title = f"What the {len(order)} strongest of {len(weight)} hidden units, numbered, add to a picture: white more, black less"
    labels = [f"unit {number}" for number in order.tolist()]
    save_contact_sheet(path, arrays(task.shape.image(shown)), labels, columns=12, side=_SIDE, label_lines=1, title=title)


def filters(task: ContrastiveTask) -> Tensor:
    """What each hidden unit, switched on alone, adds to the mean of samples, (H, D)."""
    units = torch.eye(task.net.hidden.shape[0], device=task.device)
    return task.decoded(units) - task.decoded(torch.zeros_like(units))


def save_denoised(task: ContrastiveTask, x: Tensor, path: Path) -> None:
    """Samples, the same with noise, and what the model makes of these."""
    generator = torch.Generator().manual_seed(0)
    binary = isinstance(task.units, BernoulliUnits)
    chance = torch.rand(x.shape, generator=generator).to(x.device)
    if binary:
        x, noise = (x > 0.5).float(), _FLIPPED
        noisy = torch.where(chance < noise, 1 - x, x)
    else:
        noise = _ADDED
        noisy = x + noise * torch.randn(x.shape, generator=generator).to(x.device)
    rows = [task.shape.image(x), task.shape.image(noisy), task.denoise(image=task.shape.image(noisy), noise=noise)]
    labels = [label for label in ("sample", "with noise", "undone") for _ in x]
    title = f"Held-out samples, the same with {f'{noise:.0%} of pixels flipped' if binary else f'noise of {noise:g}'}, and what the model makes of it"
    save_contact_sheet(path, [image for row in rows for image in arrays(row)], labels, columns=len(x), side=_SIDE, label_lines=1, title=title)


def save_scatter(x: Tensor, dreams: Tensor, path: Path) -> None:
    """The first two numbers of data and of samples."""
    with chart(path, columns=2, width=9, height=4.5) as axes:
        for place, values, title, color in zip(axes[0], (x, dreams), ("Data", "Samples"), COLORS, strict=False):
            first = values[:, :2].cpu().numpy()
            place.scatter(first[:, 0], first[:, -1], s=4, color=color, alpha=0.5)
            place.set(title=f"{title} ({len(first):,})", xlim=axes[0][0].get_xlim(), ylim=axes[0][0].get_ylim(), aspect="equal")
