"""Shapes for translation: in pairs of an outline and the whole shape, and in two domains of colour without pairs."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFilter

from genlib.data.builtin import shapes
from genlib.data.shards.writer import png

VERSION = 1
NUM_TRAIN, NUM_VALIDATION = 4096, 512
WARM, COOL = ("red", "orange", "yellow"), ("green", "blue", "purple")


def edge_pairs(split: str, count: int, size: int) -> Iterator[dict[str, bytes]]:
    """The first `count` shapes, each with `source.png`, its outline in its own colour, a pixel wide."""
    for members in shapes.samples(split, count, size):
        whole = Image.open(io.BytesIO(members["png"]))
        outline = np.asarray(whole) - np.asarray(whole.filter(ImageFilter.MinFilter(3)))
        yield {**members, "source.png": png(outline)}


def warm(split: str, count: int, size: int) -> Iterator[dict[str, bytes]]:
    """The first `count` shapes in warm colours."""
    return shapes.samples(split, count, size, colors=WARM)


def cool(split: str, count: int, size: int) -> Iterator[dict[str, bytes]]:
    """The first `count` shapes in cool colours, of which none has the place, size and kind of a warm one."""
    return shapes.samples(split, count, size, seed=1, colors=COOL)
