"""From an image's bytes to pixels: upright, of 8 bits, and where it is transparent on one background. Training and serving read alike.

What is stored otherwise is read so, whatever the format: palettes by their colours, 16 bits by the upper 8, grey levels of fewer bits
spread over 0 to 255, CMYK and YCCK by Pillow's plain conversion (Adobe's inverted inks included); profiles and gamma are left out.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from genlib.config import Color
from genlib.data.codecs.decode import BadSample
from genlib.data.codecs.image_header import ImageHeader, image_header
from genlib.data.codecs.orientation import on_its_side, upright

WHITE: Color = (255, 255, 255)
_ROWS = 64  # that are laid on the background at a time
_OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_CLEAR = ("LA", "La", "PA", "RGBA", "RGBa")


def on_background(pixels: np.ndarray, background: Color = WHITE) -> np.ndarray:
    """uint8 (H, W, 3) of (H, W, 4); some rows at a time, as products take more memory than their factors."""
    if pixels[:, :, 3].min(initial=255) == 255:
        return np.ascontiguousarray(pixels[:, :, :3])
    made = np.empty((*pixels.shape[:2], 3), np.uint8)
    behind = np.array(background, np.uint16)
    for start in range(0, len(pixels), _ROWS):
        rows = slice(start, start + _ROWS)
        alpha = pixels[rows, :, 3:].astype(np.uint16)
        made[rows] = (pixels[rows, :, :3] * alpha + behind * (255 - alpha) + 127) // 255
    return made


def opened(data: bytes, *formats: str) -> Image.Image:
    """An image of one of Pillow's formats, not decoded yet; the colour of a PNG that stands for nothing is one of the levels it is decoded to."""
    image = Image.open(io.BytesIO(data), formats=formats)
    clear, bits = image.info.get("transparency"), data[24] if image.format == "PNG" else 8
    if image.mode == "RGB" and bits == 16 and isinstance(clear, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in clear)
    elif image.mode == "L" and bits < 8 and isinstance(clear, int):
        image.info["transparency"] = min(255, clear * 255 // (2**bits - 1))
    return image


def plain(image: Image.Image) -> Image.Image:
    """Grey, RGB or RGBA of 8 bits. BadSample where it is of numbers or colours that are no picture's."""
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        return _halved(image)
    if image.mode == "I" and image.format == "PPM":  # its 16 bits
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadSample("more than 16 bits")
    if image.mode not in (*_OPAQUE, *_CLEAR):
        raise BadSample("unknown colours")
    clear = image.mode in _CLEAR or "transparency" in image.info
    wanted = "RGBA" if clear else "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _halved(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits of grey; a level that stands for nothing is found among all 16."""
    levels, clear = np.asarray(image), image.info.get("transparency")
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    if not isinstance(clear, int):
        return grey
    grey.putalpha(Image.fromarray((levels != clear) * np.uint8(255)))
    return grey.convert("RGBA")


def _pillow(data: bytes, header: ImageHeader, channels: int, background: Color) -> np.ndarray:
    image = opened(data, header.format.upper())
    if (image.height, image.width) != header.stored:
        raise BadSample("undecodable")
    image = plain(image)
    if image.mode == "RGBA" and channels != 4:
        image = Image.fromarray(on_background(np.asarray(image), background))
    wanted = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return np.asarray(image if image.mode == wanted else image.convert(wanted))


def _jpeg(data: bytes, header: ImageHeader, channels: int, at_least: tuple[int, int]) -> np.ndarray | None:
    """The fast way; None for what it does not take: CMYK, alpha, and files with flaws that do not matter, which Pillow tells from others."""
    if header.channels == 4 or channels == 4:
        return None
    least = at_least[::-1] if on_its_side(header.turn) else at_least
    height, width = map(min, least, header.stored)
    try:
        return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", min_height=height, min_width=width, min_factor=2 if height else 1)
    except ValueError:
        return None


def decode_image(data: bytes, channels: int = 3, at_least: int | tuple[int, int] = 0, background: Color = WHITE) -> np.ndarray:
    """An image as uint8 (H, W, channels), upright. With 1 or 3 channels what is transparent lies on `background`, with 4 alpha stays.

    With `at_least` a JPEG may be decoded at a fraction of its size: both sides no smaller than that many pixels, or height and width
    no smaller than two. Several times faster. BadSample where it cannot be decoded.
    """
    header = image_header(data)
    try:
        image = _jpeg(data, header, channels, (at_least, at_least) if isinstance(at_least, int) else at_least) if header.format == "jpeg" else None
        image = _pillow(data, header, channels, background) if image is None else image
    except BadSample:
        raise
    except Exception as error:  # what a codec raises on hostile bytes is not a closed list
        raise BadSample("undecodable") from error
    return upright(image if image.ndim == 3 else image[:, :, None], header.turn)


def decode_palette(data: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """A palette PNG's indices as uint8 (H, W, 1), upright, and its colours, uint8 (N, 3); None for another image.

    BadSample where it cannot be decoded.
    """
    header = image_header(data)
    if header.format != "png" or data[25] != 3:
        return None
    try:
        image = opened(data, "PNG")
        pixels, colors = np.asarray(image), np.array(image.getpalette("RGB"), np.uint8)
    except Exception as error:  # see `decode_image`
        raise BadSample("undecodable") from error
    return upright(pixels[:, :, None], header.turn), colors.reshape(-1, 3)


def decode_map(data: bytes, background: Color = WHITE) -> np.ndarray:
    """An image that is no picture but numbers, such as a mask, as uint8 (H, W, 1): a palette's indices, else grey levels, see `decode_image`."""
    found = decode_palette(data)
    return decode_image(data, 1, background=background) if found is None else found[0]
