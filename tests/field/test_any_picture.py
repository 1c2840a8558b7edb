"""Pictures of every mode, format, turn and transparency, drawn from a seed, are what Pillow's own reading says, whatever reads them.

kohya-ss/sd-scripts#1316 and #1223, jarun/imgp#21: no list of formats was long enough, so they are drawn.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlib.data.codecs.decode import REASONS, BadSample
from genlib.data.codecs.encode import stored_image
from genlib.data.codecs.images import decode_image
from serve.limits import Limits
from serve.parsing.image_decoding import pixels_of, with_channels
from tests.field.pictures import LOSSLESS, TURNS, encoded, independent, raw_png, read_back

MODES = {
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "I;16", "RGB", "RGBA", "P"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "I;16", "RGB", "RGBA", "P", "CMYK", "YCbCr"),
    "BMP": ("1", "L", "RGB", "P"),
    "GIF": ("L", "P", "RGB"),
    "PPM": ("1", "L", "RGB"),
}
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
CLEAR = {"L": 90, "P": 3, "RGB": (1, 2, 3), "1": 0, "GIF": 3}
DRAWN = 240


def drawn(rng: np.random.Generator) -> tuple[str, bytes]:
    """A small picture of some kind, as (format, file)."""
    kind = str(rng.choice(list(MODES)))
    mode = str(rng.choice(MODES[kind]))
    height, width = rng.integers(2, 24, 2)
    blocks = rng.integers(0, 256, (-(-height // 4), -(-width // 4), 4), np.uint8)
    levels = np.kron(blocks, np.ones((4, 4, 1), np.uint8))[:height, :width]
    if mode == "I;16":
        image = Image.fromarray(levels[:, :, 0].astype(np.uint16) * 256 + levels[:, :, 1])
    elif mode == "P":
        image = Image.fromarray(levels[:, :, 0] % 8, "P")
        image.putpalette(rng.integers(0, 256, 24, np.uint8).tolist())
    else:
        image = Image.fromarray(levels).convert(mode) if mode in ("LA", "RGBA") else Image.fromarray(levels[:, :, :3].copy()).convert(mode)
    options = {}
    if rng.random() < 0.5 and (kind == "PNG" or (kind == "GIF" and mode == "P")) and mode in CLEAR:
        options["transparency"] = CLEAR[mode]
    turn = int(rng.choice(TURNS)) if kind in ("JPEG", "PNG", "WEBP", "TIFF") else 1
    return kind, encoded(image, kind, turn, **options, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))


def differ(found: np.ndarray, wanted: np.ndarray, most: float) -> str:
    """How they differ; empty where by no more than that on the mean."""
    if found.shape != wanted.shape:
        return f"{found.shape} and not {wanted.shape}"
    mean = float(np.abs(found.astype(int) - wanted.astype(int)).mean())
    return "" if mean <= most else f"by {mean}"


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 90)])
def test_every_path_agrees_with_pillow(tmp_path: Path, background: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(background[0])
    files = [drawn(rng) for _ in range(DRAWN)]
    held = {f"{number}.{EXTENSIONS[kind]}": data for number, (kind, data) in enumerate(files) if kind in EXTENSIONS}
    shards, read = read_back(tmp_path, held, background=background)
    assert len(shards) == len(held)
    for number, (kind, data) in enumerate(files):
        wanted, most = independent(data, "RGB", background), 1.5 if kind == "JPEG" else 0.6
        grey, both = independent(data, "L", background), f"{number}: {kind} {Image.open(io.BytesIO(data)).mode}"
        extension, stored = stored_image(data)
        assert extension == EXTENSIONS.get(kind, "png"), both
        assert not differ(decode_image(stored, 3, background=background), wanted, most), both
        assert not differ(decode_image(stored, 1, background=background), grey, 1.5), both
        shrunk = decode_image(stored_image(data, 1)[1], 3, background=background)
        assert min(shrunk.shape[:2]) == 1, both
        if kind in EXTENSIONS:
            assert not differ(read[str(number)], wanted, most), both
            pixels = pixels_of(data, Limits(), "image")
            assert not differ(with_channels(pixels, 3, background), wanted, most), both
            assert shards.pixels(np.array([list(held).index(f"{number}.{EXTENSIONS[kind]}")])).tolist() == [list(wanted.shape[:2])], both


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_goes_from_black_to_white(bits: int) -> None:
    row = sum(level << (8 - bits * (at + 1)) for at, level in enumerate(range(min(2**bits, 8 // bits))))
    data = raw_png(8 // bits, 1, bits, 0, [bytes([row])])
    assert (decode_image(data) == independent(data)).all()


def test_adobe_inverted_inks_and_its_ycck() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for data in (encoded(image, "JPEG", quality=95), encoded(image, "JPEG", 6, quality=95)):
        assert np.abs(decode_image(data).astype(int) - independent(data)).max() <= 1
        assert decode_image(data)[8, 8].tolist() == pytest.approx([255, 0, 0], abs=4)
        assert decode_image(stored_image(data, 8)[1])[4, 4].tolist() == pytest.approx([255, 0, 0], abs=4)


def deep_pgm() -> bytes:
    """16 bits of grey, as PGM."""
    return b"P5 3 1 65535\n" + np.array([0, 256 * 100, 65535], ">u2").tobytes()


def test_grey_of_16_bits_gives_its_upper_half_in_every_format() -> None:
    deep = Image.fromarray(np.array([[0, 256 * 100, 65535]], np.uint16))
    for data in (encoded(deep, "PNG"), encoded(deep, "TIFF"), deep_pgm()):
        assert decode_image(stored_image(data)[1], 1)[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize(("mode", "reason"), [("F", "more than 16 bits"), ("I", "more than 16 bits"), ("LAB", "unknown colours")])
@pytest.mark.parametrize("size", [0, 4])
def test_what_is_no_picture_is_counted_by_a_reason(mode: str, reason: str, size: int) -> None:
    image = Image.new(mode, (8, 8)) if mode != "I" else Image.fromarray(np.full((8, 8), 70_000, np.int32))
    with pytest.raises(BadSample, match=f"^{reason}$"):
        stored_image(encoded(image, "TIFF"), size)
    assert reason in REASONS


def test_formats_are_those_that_can_be_written_here() -> None:
    assert set(LOSSLESS) | {"JPEG", "PPM"} == set(MODES)
