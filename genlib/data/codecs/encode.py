"""An image as a shard stores it: its own bytes where these will do, otherwise upright, shrunk and encoded again.

Bytes that are kept keep their turn, and are read upright; what is encoded again is upright without it, and transparent where it was.
"""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np
from PIL import Image, features

from genlib.data.codecs.decode import LIMIT_BYTES, LIMIT_PIXELS, TWO_SIZES, BadSample
from genlib.data.codecs.image_header import image_header, mask_header
from genlib.data.codecs.images import decode_image, decode_map, opened, plain
from genlib.data.codecs.orientation import UPRIGHT, turn_of, upright
from genlib.files import IrregularError, read_regular

_OTHERS = ("BMP", "GIF", "TIFF", "PPM", *(("AVIF",) if features.check("avif") else ()))
"""Formats that are opened to be stored as another one; Pillow's other decoders are not used."""
_EXTENSION = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_END = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}
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
    becomes PNG. Of a JPEG with several pictures the first is taken. BadSample or SkippedSample says why it cannot be used, as one that is cut off.
    """
    if len(data) > LIMIT_BYTES["image"]:
        raise BadSample("over the byte limit")
    try:
        header = image_header(data)
    except BadSample as reason:
        if str(reason) != "undecodable header":
            raise
        return _encoded_other(data, size)
    if not size or min(header.height, header.width) <= size:
        if not ends(data, header.format):
            decode_image(data)
        return _EXTENSION[header.format.upper()], data
    try:
        return _encoded(opened(data, header.format.upper()), header.format.upper(), size, header.turn)
    except BadSample:
        raise
    except Exception:  # what a codec raises on hostile bytes is not a closed list
        raise BadSample("undecodable") from None


def ends(data: bytes, kind: str) -> bool:
    """Whether a JPEG, PNG or WebP file ends as its format does: a copy or a download that was cut off does not, nor does one with more behind it."""
    if kind == "webp":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return data.endswith(_END[kind])


def stored_halves(data: bytes, size: int = 0) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """The left and the right half of an image, each as of `stored_image`; encoded again, a JPEG as JPEG, all else as PNG.

    BadSample or SkippedSample says why it cannot be used.
    """
    kind, whole = stored_image(data)
    pixels = decode_image(whole)
    wide = pixels.shape[1]
    if wide % 2:
        raise BadSample(TWO_SIZES)
    found = []
    for half in (pixels[:, : wide // 2], pixels[:, wide // 2 :]):
        found.append(_encoded(Image.fromarray(np.ascontiguousarray(half)), "JPEG" if kind == "jpg" else "PNG", size, UPRIGHT))
    return found[0], found[1]


def stored_mask(data: bytes) -> tuple[str, bytes]:
    """(extension, bytes) of a mask for a shard: unchanged where it is a JPEG, PNG or WebP, else a grey PNG of its numbers, see `decode_map`."""
    if len(data) > LIMIT_BYTES["image"]:
        raise BadSample("over the byte limit")
    try:
        kind = mask_header(data).format
        if not ends(data, kind):
            decode_map(data)
        return f"mask.{_EXTENSION[kind.upper()]}", data
    except BadSample as reason:
        if str(reason) != "undecodable header":
            raise
    return f"mask.{_EXTENSION['PNG']}", _encoded_other(data, 0, mask=True)[1]


def _encoded_other(data: bytes, size: int, mask: bool = False) -> tuple[str, bytes]:
    """Of an image in a format that shards do not hold; of a mask the palette is left out."""
    try:
        image = opened(data, *_OTHERS)
    except Image.DecompressionBombError:
        raise BadSample("over the pixel limit") from None
    except Exception:  # see `stored_image`
        raise SkippedSample("not an image") from None
    if image.width * image.height > LIMIT_PIXELS:
        raise BadSample("over the pixel limit")
    try:
        if getattr(image, "is_animated", False):
            raise BadSample("several frames")
        if mask:
            image = _numbers(image)
        # Pillow turns a TIFF itself as it is decoded
        turn = turn_of(image.info.get("exif") or b"", image.info.get("xmp") or b"") if image.format == "AVIF" else 1
        return _encoded(image, "PNG", size, turn)
    except BadSample:
        raise
    except Exception:
        raise BadSample("undecodable") from None


def _numbers(image: Image.Image) -> Image.Image:
    """A mask as grey."""
    if image.mode.startswith("I;16"):
        raise BadSample("mask of 16 bits")
    return Image.fromarray(np.asarray(image)) if image.mode == "P" else plain(image).convert("L")


def _encoded(image: Image.Image, kind: str, size: int, turn: int) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    _shrunk(image, size, turn).save(buffer, kind, **({} if kind == "PNG" else {"quality": _QUALITY}))
    return _EXTENSION[kind], buffer.getvalue()


def _shrunk(image: Image.Image, size: int, turn: int) -> Image.Image:
    """The image upright, in 8 bits, its shorter side at most `size` pixels where that is not 0."""
    if size:
        image.draft(None, (2 * size, 2 * size))  # a JPEG at a fraction, which is still twice what is wanted
    pixels = np.asarray(plain(image))
    image = Image.fromarray(upright(pixels, turn))  # without profiles and comments, which are not pixels
    scale = size / min(image.size) if size else 1.0
    if scale >= 1:
        return image
    width, height = (max(size, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
