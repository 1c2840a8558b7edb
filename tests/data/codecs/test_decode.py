"""Images by their true format and within limits; anything else is a bad sample with a reason."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from genlib.data.codecs.decode import BadSample
from genlib.data.codecs.image_header import image_header
from genlib.data.codecs.images import decode_image
from tests.data.shards import picture

RAMP = np.add.outer(np.arange(32), 3 * np.arange(48)).astype(np.uint8)[:, :, None].repeat(3, axis=2)


def encoded(kind: str, pixels: np.ndarray = RAMP, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


FORMS = {
    "png": encoded("png"),
    "webp lossless": encoded("webp", lossless=True),
    "webp": encoded("webp", quality=100),
    "webp alpha": encoded("webp", np.dstack([RAMP, RAMP[:, :, :1] // 2]), lossless=True),
    "jpeg": encoded("jpeg", quality=100, subsampling=0),
}


@pytest.mark.parametrize("form", FORMS)
def test_header_and_pixels_agree(form: str) -> None:
    header = image_header(FORMS[form])
    assert (header.height, header.width) == (32, 48)
    assert header.channels == (4 if "alpha" in form else 3)
    image = decode_image(FORMS[form])
    assert image.shape == (32, 48, 3)
    if form != "webp alpha":
        assert np.abs(image.astype(int) - RAMP).max() <= (0 if form in ("png", "webp lossless") else 12)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("form", FORMS)
def test_channels_as_wanted(form: str, channels: int) -> None:
    assert decode_image(FORMS[form], channels).shape == (32, 48, channels)


def test_sixteen_bits_keep_their_scale() -> None:
    deep = np.array([[0, 256 * 100, 65535]], np.uint16)
    assert decode_image(encoded("png", deep), 1)[0, :, 0].tolist() == [0, 100, 255]


def test_cmyk_is_converted() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(buffer, "jpeg")
    assert decode_image(buffer.getvalue())[4, 4].tolist() == pytest.approx([254, 0, 0], abs=3)


@pytest.mark.parametrize(("at_least", "expected"), [(0, 512), (200, 256), (256, 256), (300, 512), (64, 64), (4000, 512)])
def test_scaled_decode_never_goes_below_what_is_asked(at_least: int, expected: int) -> None:
    data = simplejpeg.encode_jpeg(np.zeros((512, 512, 3), np.uint8))
    assert decode_image(data, at_least=at_least).shape == (expected, expected, 3)


def test_a_jpeg_with_harmless_flaws_is_read() -> None:
    data = FORMS["jpeg"]
    flawed = data[:-2] + b"\0\0\0" + data[-2:]
    assert decode_image(flawed).shape == (32, 48, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a" + bytes(40),
        b"\xff\xd8\xff" + bytes(40),
        b"\x89PNG\r\n\x1a\n",
        FORMS["png"][:40],
        b"RIFF\0\0\0\0WEBPVP8X",
        FORMS["jpeg"][:200],
        FORMS["webp"][:60],
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
)
def test_what_is_no_image_is_a_bad_sample(data: bytes) -> None:
    with pytest.raises(BadSample):
        decode_image(data)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    data = bytearray(FORMS["jpeg"])
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = b"\xf0\x00\xf0\x00"
    with pytest.raises(BadSample, match="over the pixel limit"):
        image_header(bytes(data))


def test_the_extension_does_not_matter_but_the_content_does() -> None:
    assert image_header(picture(kind="jpeg")).format == "jpeg"
    assert image_header(picture(channels=1)).channels == 1
