"""How well a model fills held-out pictures, and a sheet that shows it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genlib.metrics.held_out import held_out
from genlib.models.diffusion import ddpm_assess
from genlib.models.diffusion.base.masks import random_masks
from genlib.models.diffusion.inpainting import Inpainting, Resampling
from genlib.pictures import save_contact_sheet
from genlib.types import Batch, DataSource

MOST_PICTURES = 256
"""Held-out pictures that are filled, from the first."""
_BATCH, _SHOWN = 64, 16
_HIDDEN = 0.5  # grey level of what a picture on the sheet misses


def assess(task: Inpainting, source: DataSource, folder: Path) -> dict[str, float]:
    """As of every pixel diffusion, and how well it fills."""
    return {**ddpm_assess.assess(task, source, folder), **assess_filling(task, source, folder)}


@torch.no_grad()
def assess_filling(task: Inpainting | Resampling, source: DataSource, folder: Path) -> dict[str, float]:
    """Scores over hidden pixels of held-out pictures with random masks; leaves `filled.png` in the folder.

    Peak signal-to-noise ratios in dB of the filling and of the mean of each picture's known pixels, and the largest change of a known
    pixel in [0, 1]. One filling is one draw of what is possible, not the mean, which would score up to 3 dB more.
    """
    parts: list[tuple[Tensor, ...]] = []
    for batch in held_out(task, source, size=_BATCH, most=MOST_PICTURES):  # type: ignore[arg-type]  # every Filler is a Task
        parts.append(hidden_and_filled(task, batch))
    if not parts:
        return {}
    image, mask, filled = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    save_filled(folder / "filled.png", image[:_SHOWN], mask[:_SHOWN], filled[:_SHOWN])
    name = source.spec.validation_name
    return {
        f"{name}/hidden_psnr_db": psnr(filled, image, mask),
        f"{name}/hidden_psnr_of_mean_db": psnr(mean_filled(image, mask), image, mask),
        f"{name}/known_pixels_largest_change": ((filled - image).abs() * (1 - mask)).max().item(),
    }


def sheet(task: Inpainting | Resampling, source: DataSource, path: Path) -> None:
    """The first held-out pictures, filled."""
    for batch in held_out(task, source, size=_SHOWN, most=_SHOWN):  # type: ignore[arg-type]  # every Filler is a Task
        save_filled(path, *hidden_and_filled(task, batch))


def hidden_and_filled(task: Inpainting | Resampling, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (B, C, H, W) in [0, 1], random masks (B, 1, H, W) of what is hidden, and the pictures filled, on the CPU."""
    image, position = (batch["image"].cpu() + 1) / 2, batch["position"].cpu()
    mask = random_masks(position, *image.shape[2:], seed=0)
    return image, mask, task.inpaint(image=image, mask=mask, seed=position.tolist()).cpu()


def psnr(one: Tensor, other: Tensor, mask: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over the masked pixels of images (B, C, H, W) in [0, 1], mask (B, 1, H, W)."""
    error = ((one - other).square() * mask).sum() / (mask.sum() * one.shape[1])
    return -10 * torch.log10(error).item()


def mean_filled(image: Tensor, mask: Tensor) -> Tensor:
    """Each picture's hidden pixels filled with the mean of its known ones, channel by channel; 0 where nothing is known."""
    known = (1 - mask).sum((2, 3), keepdim=True).clamp(min=1)
    mean = (image * (1 - mask)).sum((2, 3), keepdim=True) / known
    return torch.where(mask > 0, mean, image)


def save_filled(path: Path, image: Tensor, mask: Tensor, filled: Tensor) -> None:
    """A sheet of pictures (B, C, H, W): whole, with what was hidden in grey, and filled."""
    shown = [each for row in zip(image, torch.where(mask > 0, _HIDDEN, image), filled, strict=True) for each in row]
    labels = ["picture", "given", "filled"] * len(image)
    save_contact_sheet(path, [one.permute(1, 2, 0).numpy() for one in shown], labels, columns=6, side=96, label_lines=1, title="Held-out pictures")
