"""Images as they are stored: byte for byte where they may be, else of the same pixels, else left out with a reason."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from genlib.data.codecs.decode import BadSample
from genlib.data.codecs.encode import SkippedSample, stored_image, stored_mask
from genlib.data.codecs.image_header import image_header
from genlib.data.codecs.images import decode_image


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 20), **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def frames(kind: str) -> bytes:
    buffer = io.BytesIO()
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    first.save(buffer, kind, save_all=True, append_images=[second])
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_what_a_shard_may_hold_is_kept_byte_for_byte(kind: str, extension: str) -> None:
    data = encoded(kind)
    assert stored_image(data) == (extension, data)
    assert stored_image(data, 20) == (extension, data)  # its shorter side is as asked: never up, never again
    assert stored_image(data, 4096) == (extension, data)


@pytest.mark.parametrize(("kind", "mode"), [("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("PPM", "L"), ("TIFF", "CMYK")])
def test_other_formats_become_png_of_the_same_pixels(kind: str, mode: str) -> None:
    data = encoded(kind, mode)
    extension, stored = stored_image(data)
    assert extension == "png"
    wanted = "L" if mode == "L" else "RGB"
    assert (np.asarray(Image.open(io.BytesIO(stored))) == np.asarray(Image.open(io.BytesIO(data)).convert(wanted))).all()


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("BMP", "RGB"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "P")]
)
def test_the_shorter_side_shrinks(kind: str, mode: str) -> None:
    header = image_header(stored_image(encoded(kind, mode, (400, 200)), 50)[1])
    assert (header.width, header.height) == (100, 50)
    assert header.channels == {"RGBA": 4, "LA": 4, "L": 1}.get(mode, 3)
    narrow = image_header(stored_image(encoded(kind, mode, (3, 90)), 3)[1])
    assert (narrow.width, narrow.height) == (3, 90)


def test_shrinking_keeps_the_picture_and_turns_it_upright() -> None:
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp, (128, 256)).copy())
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, exif=exif)
    stored = decode_image(stored_image(buffer.getvalue(), 32)[1], 1)[:, :, 0].astype(int)
    assert stored.shape == (64, 32)
    assert np.abs(stored.mean(axis=1) - (np.arange(64) * 4 + 1.5)).max() < 3


def test_sixteen_bits_keep_their_upper_half() -> None:
    values = np.full((64, 64), 0x8123, np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    assert (decode_image(stored_image(buffer.getvalue(), 16)[1], 1) == 0x81).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image"),
        (b"<svg/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (frames("GIF"), "several frames"),
        (frames("TIFF"), "several frames"),
        (frames("WEBP"), "several frames"),
        (encoded("TIFF")[:-200], "undecodable"),
        (b"P5 100000 100000 255\n", "over the pixel limit"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\1\0\0" * 2 + b"\x08\x02\0\0\0" + b"\0" * 4 + b"\0\0\0\0IDAT", "over the pixel limit"),
        (b"\0" * ((64 << 20) + 1), "over the byte limit"),
    ],
)
def test_what_cannot_be_stored_says_why(data: bytes, reason: str) -> None:
    with pytest.raises((BadSample, SkippedSample), match=f"^{reason}$"):
        stored_image(data)


def test_a_truncated_jpeg_is_found_where_it_is_encoded_anew() -> None:
    with pytest.raises(BadSample, match=r"^undecodable$"):
        stored_image(encoded("JPEG", size=(400, 400))[:2000], 100)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("stored", [stored_image, stored_mask])
def test_a_file_that_is_cut_off_is_none_and_one_with_more_behind_it_is_kept(kind: str, stored: Callable[[bytes], tuple[str, bytes]]) -> None:
    whole = encoded(kind, size=(120, 80))
    for more in (b"", b"\0" * 7, b"of a camera, behind its picture"):
        assert stored(whole + more)[1] == whole + more
    for share in (0.5, 0.8, 0.95):
        with pytest.raises(BadSample, match="undecodable"):
            stored(whole[: int(share * len(whole))])
