"""From a member's bytes to a value, by an allow-list of extensions; no other member is opened, and no code from data runs.

Images are measured from their header before any decoder sees them: JPEG, PNG and WebP, one frame, within a pixel limit.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

KINDS = {
    "jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "txt": "text", "caption": "text", "text": "text", "transcript": "text",
    "cls": "label", "json": "json", "jsn": "json", "npy": "array",
}  # fmt: skip
"""Kind of value by extension; a member `key.mask.png` is an image in the field `mask`, `key.motion.npy` numbers in `motion`. Of a sample's
texts the first ending here counts."""
LIMIT_BYTES = {"image": 64 << 20, "text": 1 << 20, "label": 64, "json": 4 << 20, "array": 64 << 20}
LIMIT_PIXELS = 1 << 26
LIMIT_LABELS = 1 << 22
"""Most classes: each has a name in memory, whether a sample has it or not."""
_MAX_CHUNKS = 256  # of a PNG before its pixels
_MAX_SCANS = 100  # of a JPEG: each passes over all pixels and may take 100 bytes; writers use 10
_SMALL = 8192  # bytes that hold no more scans than that


REASONS = (
    "undecodable", "undecodable header", "several frames", "over the pixel limit", "over the byte limit",
    "non-UTF-8", "missing caption", "bad label", "bad JSON", "bad array", "killed its reader", "hung its reader",
    CHANGED := "changed since it was indexed", UNREADABLE := "unreadable shard", "missing label",
)  # fmt: skip
"""Why a sample may fail. Some are found while reading: by the supervisor of reader processes, or by the checksums in the index."""


class BadSample(ValueError):
    """A member that cannot be used; the message is one of `REASONS`, under which it is counted."""


class ImageHeader(NamedTuple):
    """An image's header: format, pixels, channels (1 grey, 3 colour, 4 with alpha or CMYK)."""

    format: str
    height: int
    width: int
    channels: int


def _jpeg_header(data: bytes) -> ImageHeader:
    if len(data) > _SMALL and data.count(b"\xff\xda") > _MAX_SCANS + (len(data) >> 15):  # by chance there is one in 64 KB of other content
        raise BadSample("undecodable header")
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    return ImageHeader("jpeg", int(height), int(width), {"Gray": 1, "CMYK": 4, "YCCK": 4}.get(colorspace, 3))


def _png_header(data: bytes) -> ImageHeader:
    width, height, _, color = struct.unpack_from(">IIBB", data, 16)
    at = 8
    for _ in range(_MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        if kind == b"IDAT":
            return ImageHeader("png", height, width, {0: 1, 4: 4, 6: 4}.get(color, 3))
        if kind == b"acTL":
            raise BadSample("several frames")
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise BadSample("undecodable header")


def _webp_header(data: bytes) -> ImageHeader:
    """The three forms of WebP: RFC 9649, sections 2.5 to 2.7."""
    kind, alpha = data[12:16], False
    if kind == b"VP8X":
        if data[20] & 0x02:
            raise BadSample("several frames")
        alpha = bool(data[20] & 0x10)
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        word = int.from_bytes(data[21:25], "little")
        width, height, alpha = 1 + (word & 0x3FFF), 1 + (word >> 14 & 0x3FFF), bool(word >> 28 & 1)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise BadSample("undecodable header")
    return ImageHeader("webp", height, width, 4 if alpha else 3)


def image_header(data: bytes) -> ImageHeader:
    """Measures a JPEG, PNG or WebP without decoding it. BadSample where it is none, has several frames or too many pixels."""
    try:
        if data[:3] == b"\xff\xd8\xff":
            header = _jpeg_header(data)
        elif data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
            header = _png_header(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _webp_header(data)
        else:
            raise BadSample("undecodable header")
    except BadSample:
        raise
    except (ValueError, KeyError, IndexError, struct.error):
        raise BadSample("undecodable header") from None
    if not header.height or not header.width:
        raise BadSample("undecodable header")
    if header.height * header.width > LIMIT_PIXELS:
        raise BadSample("over the pixel limit")
    return header


def _pillow(data: bytes, header: ImageHeader, channels: int) -> np.ndarray:
    image = Image.open(io.BytesIO(data), formats=(header.format.upper(),))
    if (image.height, image.width) != (header.height, header.width):
        raise BadSample("undecodable")
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    wanted = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return np.asarray(image if image.mode == wanted else image.convert(wanted))


def _jpeg(data: bytes, header: ImageHeader, channels: int, at_least: tuple[int, int]) -> np.ndarray | None:
    """The fast way; None for what it does not take: CMYK, alpha, and files with flaws that do not matter, which Pillow tells from others."""
    if header.channels == 4 or channels == 4:
        return None
    height, width = min(at_least[0], header.height), min(at_least[1], header.width)
    try:
        return simplejpeg.decode_jpeg(data, "GRAY" if channels == 1 else "RGB", min_height=height, min_width=width, min_factor=2 if height else 1)
    except ValueError:
        return None


def decode_image(data: bytes, channels: int = 3, at_least: int | tuple[int, int] = 0) -> np.ndarray:
    """An image as uint8 (H, W, channels), channels 1, 3 or 4.

    With `at_least` a JPEG may be decoded at a fraction of its size: both sides no smaller than that many pixels, or height and width
    no smaller than two. Several times faster. BadSample where it cannot be decoded.
    """
    header = image_header(data)
    try:
        image = _jpeg(data, header, channels, (at_least, at_least) if isinstance(at_least, int) else at_least) if header.format == "jpeg" else None
        image = _pillow(data, header, channels) if image is None else image
    except BadSample:
        raise
    except Exception as error:  # what a codec raises on hostile bytes is not a closed list
        raise BadSample("undecodable") from error
    return image if image.ndim == 3 else image[:, :, None]


def plain_text(text: str) -> str:
    """A text without a byte order mark at its start, stripped."""
    return text.strip().removeprefix("\ufeff").lstrip()


def decode_text(data: bytes) -> str:
    """UTF-8 text, stripped, without a byte order mark. BadSample where it is not UTF-8 or empty."""
    try:
        text = plain_text(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadSample("non-UTF-8") from None
    if not text:
        raise BadSample("missing caption")
    return text


def decode_label(data: bytes) -> int:
    """A class number, 0 or more. BadSample where it is none; -1, empty, `nan` and `None` say that it is missing."""
    text = data.removeprefix(b"\xef\xbb\xbf").strip()
    if text.lower() in (b"", b"-1", b"nan", b"none"):
        raise BadSample("missing label")
    if not text.isdigit() or len(text) > 9 or int(text) >= LIMIT_LABELS:
        raise BadSample("bad label")
    return int(text)


def decode_json(data: bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(data.decode("utf-8").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        raise BadSample("bad JSON") from None
    if not isinstance(value, dict):
        raise BadSample("bad JSON")
    return value


class StoredArray(np.ndarray):
    """The array of a .npy member; the type of its own tells it from an image."""


def array_header(data: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and start of the numbers in a .npy file (numpy's format 1 or 2), in C order and without objects. BadSample for others."""
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, kind = read(file, max_header_size=4096)
    except Exception:  # what numpy raises on a hostile header is not a closed list
        raise BadSample("bad array") from None
    good = not fortran and kind.kind in "biuf" and kind.itemsize <= 8 and kind.isnative
    good = good and 1 <= len(shape) <= 6 and all(type(side) is int and 0 <= side < 2**31 for side in shape)
    if not good or math.prod(shape) * kind.itemsize != len(data) - file.tell():
        raise BadSample("bad array")
    return shape, kind, file.tell()


def decode_array(data: bytes) -> StoredArray:
    """Numbers of a .npy file, read-only."""
    shape, kind, start = array_header(data)
    return np.frombuffer(data, kind, offset=start).reshape(shape).view(StoredArray)


CHECKS: dict[str, Callable[[bytes], Any]] = {
    "image": image_header,
    "text": decode_text,
    "label": decode_label,
    "json": decode_json,
    "array": array_header,
}
"""Check of a member by kind, which it must pass before its sample gets a number."""
