"""Rings2d: points of the plane around eight places on a circle, the usual test of whether a generator covers every mode.

The mixture of Metz et al. 2017 (arXiv:1611.02163): eight equal Gaussians on a circle of radius 2, here with a spread of 0.1. Each
sample is a pure function of (seed, split, number).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import numpy as np

VERSION = 1
NUM_TRAIN, NUM_VALIDATION = 8192, 2048
MODES, RADIUS, SPREAD = 8, 2.0, 0.1
CLASS_NAMES = tuple(f"mode {number}" for number in range(MODES))


def centers() -> np.ndarray:
    """The eight modes, float64 (8, 2), counter-clockwise from (2, 0)."""
    angles = 2 * math.pi * np.arange(MODES) / MODES
    return RADIUS * np.stack([np.cos(angles), np.sin(angles)], 1)


def samples(split: str, count: int, seed: int = 0) -> Iterator[dict[str, bytes]]:
    """Members of the first `count` samples of "train" or "validation": npy with the point, float32 (2,), and cls with its mode."""
    places = centers()
    for number in range(count):
        rng = np.random.default_rng((seed, split == "validation", number))
        mode = int(rng.integers(MODES))
        file = io.BytesIO()
        np.save(file, (places[mode] + SPREAD * rng.normal(size=2)).astype(np.float32))
        yield {"npy": file.getvalue(), "cls": str(mode).encode()}
