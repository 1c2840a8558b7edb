"""What a trained StyleGAN draws: scores and samples as of all two players, and pictures of what its styles do."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from genlib.models.adversarial.base import assess as of_two_players
from genlib.models.adversarial.base.labelled import Labelled
from genlib.models.adversarial.stylegan.motion import generator_equivariance
from genlib.models.adversarial.stylegan.task import StyleGAN
from genlib.pictures import save_contact_sheet
from genlib.types import DataSource

_SIDE, _MIXED, _TRUNCATIONS, _ROWS, _FRAMES, _STOPS = 80, 5, (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25), 4, 12, 4
"""Pixels a side on a sheet; seeds a side of the mixing table; rows of a sweep; frames from one stop of the animation to the next; stops."""
MOVED, MOTIONS, SMALLEST_MOVED = 64, 16, 16
"""Images whose motion is measured; motions of each kind; pixels a side below which nothing of a turned image is known."""


@torch.no_grad()
def assess(task: StyleGAN, source: DataSource, folder: Path) -> dict[str, float]:
    """See `genlib.models.adversarial.base.assess`; besides how well images move as a whole, `eq_t`, `eq_t_frac` and of StyleGAN3 `eq_r`, in decibels.

    Besides it leaves `style_mixing.png`, `truncation.png` and `interpolation.gif`.
    """
    scores = of_two_players.assess(task, source, folder)
    scores |= {f"{source.spec.validation_name}/{name}": value for name, value in motion_scores(task).items()}
    save_mixing(task, folder / "style_mixing.png")
    if task.generator.mapping.w_avg.any():
        save_truncation(task, folder / "truncation.png")
    save_animation(task, folder / "interpolation.gif")
    return scores


def motion_scores(task: StyleGAN) -> dict[str, float]:
    """See `generator_equivariance`; nothing of images that are too small for it."""
    if task.shape.image_size < SMALLEST_MOVED:
        return {}
    label = task.asked(range(MOVED)).get("label")
    labels = [task.one_hot(torch.tensor(label, device=task.device))] if isinstance(task, Labelled) else []
    return generator_equivariance(task.generator, task.latents(range(MOVED)), *labels, batch=MOVED // MOTIONS)


def save_mixing(task: StyleGAN, path: Path) -> None:
    """A table: shapes of the row's seed, fine detail of the column's."""
    seeds, count = list(range(_MIXED)), task.generator.synthesis.num_ws
    layer, cells, labels = count // 2, [], []
    alone = task.generate(**task.asked(seeds)).cpu()
    cells, labels = [torch.ones_like(alone[0]), *alone], ["", *(f"seed {seed}" for seed in seeds)]
    for row in seeds:
        mixed = task.mix(**task.asked([row] * _MIXED), style_seed=seeds, style_layer=layer).cpu()
        cells += [alone[row], *mixed]
        labels += [f"seed {row}", *[""] * _MIXED]
    title = f"Styles of the row's seed up to layer {layer - 1}, of the column's from layer {layer} of {count} on"
    save_contact_sheet(path, _pixels(torch.stack(cells)), labels, columns=_MIXED + 1, side=_side(alone), label_lines=1, title=title)


def save_truncation(task: StyleGAN, path: Path) -> None:
    """A seed a row, from what is opposite over the mean to beyond the style itself."""
    drawn = [task.generate(**task.asked([seed]), truncation=psi).cpu() for seed in range(_ROWS) for psi in _TRUNCATIONS]
    labels = [f"{psi:g}" for _ in range(_ROWS) for psi in _TRUNCATIONS]
    title = "Truncation: 0 is the mean of all styles, 1 the style of the seed, a seed a row"
    save_contact_sheet(path, _pixels(torch.cat(drawn)), labels, columns=len(_TRUNCATIONS), side=_side(drawn[0]), label_lines=1, title=title)


def save_animation(task: StyleGAN, path: Path) -> None:
    """A loop through the images of some seeds and back to the first."""
    label = {name: value[:1] for name, value in task.asked([0]).items() if name != "seed"}
    frames = [
        task.interpolate(first=stop, last=(stop + 1) % _STOPS, steps=_FRAMES + 1, **label)[:-1].cpu() for stop in range(_STOPS)
    ]  # fmt: skip
    side = _side(frames[0])
    pictures = [_picture(frame).resize((side, side), Image.Resampling.NEAREST) for frame in torch.cat(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=80, loop=0)


def _picture(image: Tensor) -> Image.Image:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _side(images: Tensor) -> int:
    """Pixels a side on a sheet: a multiple of the images' own near 80."""
    return images.shape[-1] * max(1, round(_SIDE / images.shape[-1]))


def _pixels(images: Tensor) -> list:
    return [image.permute(1, 2, 0).numpy() for image in images]
