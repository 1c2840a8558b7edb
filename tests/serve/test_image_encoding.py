"""PNG files as others read them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from serve.models.image_encoding import png

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("sides", [(1, 1), (1, 7), (5, 1), (16, 24)])
def test_pil_reads_the_same_pixels(channels: int, sides: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*sides, channels), np.uint8)
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert (image.mode, image.size) == (MODES[channels], sides[::-1])
        assert (np.asarray(image).reshape(pixels.shape) == pixels).all()


def test_texts_of_any_script() -> None:
    texts = {"parameters": "a café\nSize: 1x1, Seed: 7", "seed": "7", "prompt": "心 ♥", "empty": ""}
    with Image.open(io.BytesIO(png(np.zeros((1, 1, 1), np.uint8), texts))) as image:
        assert {name: str(value) for name, value in image.info.items()} == texts


def test_smooth_pictures_are_about_as_small_as_pil_makes_them() -> None:
    ramp = np.linspace(0, 255, 128)
    pixels = np.stack([np.add.outer(ramp, ramp) / 2, np.sqrt(np.outer(ramp, ramp)), np.hypot.outer(ramp, ramp) / 1.5], 2).astype(np.uint8)
    other = io.BytesIO()
    Image.fromarray(pixels).save(other, "png", compress_level=1)
    assert len(png(pixels)) < 1.2 * len(other.getvalue())
