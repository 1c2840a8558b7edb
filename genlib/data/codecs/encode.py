"""An image as a shard stores it: its own bytes where these will do, otherwise upright, shrunk and encoded again."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features

from genlib.data.codecs.decode import LIMIT_BYTES, LIMIT_PIXELS, BadSample, image_header
from genlib.files import IrregularError, read_regular

_OTHERS = ("BMP", "GIF", "TIFF", "PPM", *(("AVIF",) if features.check("avif") else ()))
"""Formats that are opened to be stored as another one; Pillow's other decoders are not used."""
_EXTENSION = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_QUALITY = 95


class SkippedSample(ValueError):
    """A sample that cannot be stored; the message is the reason it is counted under, as that of `BadSample` is."""


def file_bytes(path: Path, limit: int, what: str) -> bytes:
    """Content of a regular file of at most `limit` bytes. SkippedSample or BadSample says of `what` why there is none."""
    try:
        return read_regular(path, limit)
    except (FileNotFoundError, NotADirectoryError):
        raise SkippedSample(f"missing {what}") from None
    except IrregularError:
        raise SkippedSample(f"{what} is no file") from None
    except (OSError, ValueError) as error:  # no rights, too long a name, a NUL in it
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise BadSample("over the byte limit") from None
        raise SkippedSample(f"unreadable {what}") from None


def stored_image(data: bytes, size: int = 0) -> tuple[str, bytes]:
    """(extension, bytes) of an image for a shard: unchanged where it is a JPEG, PNG or WebP of one frame and no larger than `size`.

    Otherwise it is turned upright and shrunk to `size` pixels on the shorter side, never up; JPEG and WebP stay such, all else
    becomes PNG. BadSample or SkippedSample says why it cannot be used.
    """
    if len(data) > LIMIT_BYTES["image"]:
        raise BadSample("over the byte limit")
    try:
        header = image_header(data)
    except BadSample as reason:
        if str(reason) != "undecodable header":
            raise
        return _encoded(data, _OTHERS, size)
    if not size or min(header.height, header.width) <= size:
        return _EXTENSION[header.format.upper()], data
    return _encoded(data, (header.format.upper(),), size)


def _encoded(data: bytes, formats: tuple[str, ...], size: int) -> tuple[str, bytes]:
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise BadSample("over the pixel limit") from None
    except Exception:  # what a codec raises on hostile bytes is not a closed list
        raise SkippedSample("not an image") from None
    if image.width * image.height > LIMIT_PIXELS:
        raise BadSample("over the pixel limit")
    kind = image.format if image.format in _EXTENSION else "PNG"
    try:
        if getattr(image, "is_animated", False):
            raise BadSample("several frames")
        image = _shrunk(image, size)
        buffer = io.BytesIO()
        image.save(buffer, kind, **({} if kind == "PNG" else {"quality": _QUALITY}))
    except (BadSample, SkippedSample):
        raise
    except Exception:
        raise BadSample("undecodable") from None
    return _EXTENSION[kind], buffer.getvalue()


def _shrunk(image: Image.Image, size: int) -> Image.Image:
    """The image upright, in 8 bits, its shorter side at most `size` pixels where that is not 0."""
    if size:
        image.draft(None, (2 * size, 2 * size))  # a JPEG at a fraction, which is still twice what is wanted
    image = _plain(ImageOps.exif_transpose(image))
    image.info.clear()  # profiles and comments are not pixels
    scale = size / min(image.size) if size else 1.0
    if scale >= 1:
        return image
    width, height = (max(size, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _plain(image: Image.Image) -> Image.Image:
    """Grey, RGB or RGBA of 8 bits."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise SkippedSample("more than 16 bits")
    clear = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    wanted = "RGBA" if clear else "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == wanted else image.convert(wanted)
