"""What a GAN on texts makes of held-out captions: scores, and pictures over their captions."""

from __future__ import annotations

from pathlib import Path

import torch

from genlib.models.adversarial.base import assess as players
from genlib.models.adversarial.text_gan import TextGAN
from genlib.types import DataSource

_CAPTIONS, _COLUMNS = 5, 8


@torch.no_grad()
def assess(task: TextGAN, source: DataSource, folder: Path) -> dict[str, float]:
    """As of all two players. Leaves `samples.png`, a caption a row, and `interpolations.png`, from one caption to another."""
    return players.assessed(task, source, folder, lambda _, source, path: save_pictures(task, source, path))


def save_pictures(task: TextGAN, source: DataSource, path: Path) -> None:
    """See `assess`."""
    sheet(task, source, path)
    captions = shown_captions(source)
    pairs = list(zip(captions, [*captions[1:], captions[0]], strict=True))
    ways = torch.cat([task.interpolate(first=0, last=0, prompt=list(pair), steps=_COLUMNS).cpu() for pair in pairs])
    ends = [text for one, other in pairs for text in (one, *[""] * (_COLUMNS - 2), other)]
    players.save_sheet(path.with_name("interpolations.png"), ways, ends, "From one caption to another, a row each, of one seed", lines=3)


def sheet(task: TextGAN, source: DataSource, path: Path) -> None:
    """Samples, a held-out caption a row; nothing where there are none."""
    captions = shown_captions(source)
    if captions:
        prompts = [caption for caption in captions for _ in range(_COLUMNS)]
        images = task.generate(seed=[*range(_COLUMNS)] * len(captions), prompt=prompts).cpu()
        players.save_sheet(path, images, prompts, "Samples, a caption a row and a seed a column", lines=3)


def shown_captions(source: DataSource) -> list[str]:
    """The first held-out captions, each once."""
    return [*dict.fromkeys(source.captions("validation", 40))][:_CAPTIONS]
