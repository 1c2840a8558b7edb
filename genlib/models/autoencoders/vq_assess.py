"""Scores of a trained autoencoder with a codebook."""

from __future__ import annotations

from pathlib import Path

import torch

from genlib.metrics.held_out import held_out
from genlib.models.autoencoders.base import image_files
from genlib.models.autoencoders.vq import AutoencoderVQTask, evenness, usage
from genlib.types import DataSource

MOST_SAMPLES = 1024
"""Held-out samples whose codes are counted, from the first."""


def assess(task: AutoencoderVQTask, source: DataSource, folder: Path) -> dict[str, float]:
    """As every image autoencoder's; and which share of the codes held-out images use, and how evenly (perplexity)."""
    scores, counts = image_files.assess(task, source, folder), torch.zeros(task.config.codes)
    for batch in held_out(task, source, size=task.chunk_samples, most=MOST_SAMPLES):
        counts += usage(task.encode_codes(image=batch["image"]), task.config.codes).cpu()
    if not scores:
        return {}
    name = source.spec.validation_name
    return {**scores, f"{name}/codes_used": (counts > 0).float().mean().item(), f"{name}/perplexity": evenness(counts).item()}
