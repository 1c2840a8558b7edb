"""Scores of a trained autoencoder with a codebook."""

from __future__ import annotations

from pathlib import Path

import torch

from genlib.models.autoencoders import image_files
from genlib.models.autoencoders.vq import AutoencoderVQTask, evenness, usage
from genlib.types import DataSource

MOST_SAMPLES = 1024
"""Held-out samples whose codes are counted, from the first."""


def assess(task: AutoencoderVQTask, source: DataSource, folder: Path) -> dict[str, float]:
    """As every image autoencoder's; and which share of the codes held-out images use, and how evenly (perplexity)."""
    scores, counts = image_files.assess(task, source, folder), torch.zeros(task.config.codes)
    batches = source.batches("validation", task.chunk_samples, rank=0, world=1, seed=0, start=0, transform=task.transform(train=False))
    for _, batch in zip(range(MOST_SAMPLES // task.chunk_samples), batches, strict=False):
        counts += usage(task.encode_codes(image=batch["image"][batch["weight"] > 0]), task.config.codes).cpu()
    if not scores:
        return {}
    name = source.spec.validation_name
    return {**scores, f"{name}/codes_used": (counts > 0).float().mean().item(), f"{name}/perplexity": evenness(counts).item()}
