"""Shapes: one coloured shape on black, with all its factors known: kind, place, size and colour; a caption and a mask.

Each sample is a pure function of (seed, split, number), so a set of any length is the head of a longer one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from genlib.data.shards.writer import png
from genlib.json_text import json_text

VERSION = 1
DEFAULT_SIZE = 32
NUM_TRAIN, NUM_VALIDATION = 8192, 1024
KINDS = ("circle", "square", "triangle", "cross", "star", "ring")
COLORS = {
    "red": (230, 50, 45),
    "green": (60, 180, 75),
    "blue": (60, 100, 230),
    "yellow": (250, 220, 50),
    "purple": (150, 60, 190),
    "orange": (250, 140, 40),
    "white": (240, 240, 240),
}
_SIZES = ((0.25, "small"), (0.40, "medium"), (0.60, "large"))  # of the image's side, each up to 10% more or less
_SUPERSAMPLE = 4


def _regular(x: float, y: float, radius: float, points: int, inner: float = 1.0) -> list[tuple[float, float]]:
    """Corners of a polygon or star that stands on its base."""
    steps = points if inner == 1.0 else 2 * points
    radii = [radius * (inner if i % 2 and inner != 1.0 else 1.0) for i in range(steps)]
    angles = [2 * math.pi * i / steps - math.pi / 2 for i in range(steps)]
    return [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _mask(kind: str, x: float, y: float, radius: float, size: int) -> np.ndarray:
    """Coverage of the shape. x, y and radius in pixels -> uint8 (size, size)."""
    canvas = Image.new("L", (size * _SUPERSAMPLE, size * _SUPERSAMPLE))
    pen = ImageDraw.Draw(canvas)
    x, y, r = x * _SUPERSAMPLE, y * _SUPERSAMPLE, radius * _SUPERSAMPLE
    if kind in ("circle", "ring"):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    if kind == "ring":
        pen.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=0)
    elif kind == "square":
        side = r * math.sqrt(0.7)
        pen.rectangle((x - side, y - side, x + side, y + side), fill=255)
    elif kind == "cross":
        pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=255)
        pen.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=255)
    elif kind == "triangle":
        pen.polygon(_regular(x, y, r, 3), fill=255)
    elif kind == "star":
        pen.polygon(_regular(x, y, r, 5, inner=0.45), fill=255)
    return np.asarray(canvas.reduce(_SUPERSAMPLE))


def _where(x: float, y: float) -> str:
    """Words for a place in the unit square."""
    row = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
    column = "left" if x < 0.4 else "right" if x > 0.6 else ""
    return f"at the {row} {column}".replace("  ", " ").rstrip() if row or column else "in the middle"


def sample(number: int, split: str, size: int, seed: int = 0, colors: Sequence[str] = tuple(COLORS)) -> dict[str, bytes]:
    """Members of one sample: png (RGB), mask.png, txt, cls (the kind), and json with the factors; x, y and size as shares of the side.

    It has one of these `colors`.
    """
    rng = np.random.default_rng((seed, split == "validation", number))
    kind, color = KINDS[rng.integers(len(KINDS))], colors[int(rng.integers(len(colors)))]
    share, word = _SIZES[rng.integers(len(_SIZES))]
    extent = share * rng.uniform(0.9, 1.1)
    x, y = rng.uniform(extent / 2, 1 - extent / 2, 2)
    mask = _mask(kind, x * size, y * size, extent / 2 * size, size)
    image = (mask[:, :, None].astype(np.uint16) * np.array(COLORS[color], np.uint16) // 255).astype(np.uint8)
    factors = {"kind": kind, "color": color, "x": round(float(x), 4), "y": round(float(y), 4), "size": round(float(extent), 4)}
    return {
        "png": png(image),
        "mask.png": png(mask),
        "txt": f"a {word} {color} {kind} {_where(x, y)}".encode(),
        "cls": str(KINDS.index(kind)).encode(),
        "json": json_text(factors).encode(),
    }


def samples(split: str, count: int, size: int, seed: int = 0, colors: Sequence[str] = tuple(COLORS)) -> Iterator[dict[str, bytes]]:
    """The first `count` samples of "train" or "validation", of these `colors`."""
    return (sample(number, split, size, seed, colors) for number in range(count))
