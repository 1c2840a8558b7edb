"""Digits: 1,797 handwritten digits of 8 x 8 pixels in 17 grey levels, from scikit-learn (Alpaydin & Kaynak 1998, UCI repository)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from genlib.data.shards.writer import png

VERSION = 1
DEFAULT_SIZE = 8
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_HELD_OUT = 5  # every fifth digit of each class


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Which rows are for validation: of each class, in stored order, every fifth."""
    nth = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        nth[rows] = np.arange(len(rows))
    return nth % _HELD_OUT == _HELD_OUT - 1


def samples(split: str, size: int) -> Iterator[dict[str, bytes]]:
    """Members of each sample of "train" or "validation": png, cls, and txt with the digit's name. Sizes other than 8 are interpolated."""
    from PIL import Image
    from sklearn.datasets import load_digits

    rows, targets = load_digits(return_X_y=True)
    keep = _held_out(np.asarray(targets)) == (split == "validation")
    images = np.round(np.asarray(rows)[keep].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    for image, label in zip(images, np.asarray(targets)[keep].tolist(), strict=True):
        picture = Image.fromarray(image)
        scaled = picture if size == 8 else picture.resize((size, size), Image.Resampling.BICUBIC)
        yield {"png": png(np.asarray(scaled)), "cls": str(label).encode(), "txt": CLASS_NAMES[label].encode()}
