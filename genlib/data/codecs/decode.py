"""From a member's bytes to a value, by an allow-list of extensions; no other member is opened, and no code from data runs.

Here are all but images, which are measured (`image_header`) before they are decoded (`images`).
"""

from __future__ import annotations

import functools
import io
import json
import math
from typing import Any

import numpy as np

KINDS = {
    "jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "txt": "text", "caption": "text", "text": "text", "transcript": "text",
    "cls": "label", "json": "json", "jsn": "json", "npy": "array",
}  # fmt: skip
"""Kind of value by extension; a member `key.mask.png` is an image in the field `mask`, `key.motion.npy` numbers in `motion`. Of a sample's
texts the first ending here counts.

An image in a field that is none of `PICTURES` is numbers by place, a map: it is read as one channel, of a palette PNG the indices.
"""
PICTURES = ("image", "source")
"""Fields whose images are pictures. `source` is what a translation makes `image` of, and both are of one size."""
TWO_SIZES = "pictures of two sizes"
LIMIT_BYTES = {"image": 64 << 20, "text": 1 << 20, "label": 64, "json": 4 << 20, "array": 64 << 20}
LIMIT_PIXELS = 1 << 26
LIMIT_LABELS = 1 << 22
"""Most classes: each has a name in memory, whether a sample has it or not."""
_LARGEST_HEADER = 8192  # bytes of a .npy file before its numbers


REASONS = (
    "undecodable", "undecodable header", "several frames", "over the pixel limit", "over the byte limit",
    "more than 16 bits", "unknown colours", "mask of 16 bits",
    "non-UTF-8", "missing caption", "bad label", "bad JSON", "bad array", "killed its reader", "hung its reader",
    CHANGED := "changed since it was indexed", UNREADABLE := "unreadable shard", "missing label",
    TWO_SIZES,
)  # fmt: skip
"""Why a sample may fail. A new one goes to the end, as encoded sets keep their numbers."""
FOUND_WHILE_READING = ("killed its reader", "hung its reader", CHANGED, UNREADABLE)
"""Those of the supervisor of reader processes and of the checksums in the index; another attempt may not meet them."""


class BadSample(ValueError):
    """A member that cannot be used; the message is one of `REASONS`, under which it is counted."""


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
    length = data[8:10] if data[6:7] == b"\x01" else data[8:12]
    start = 8 + len(length) + int.from_bytes(length, "little")
    shape, kind = _parsed_header(data[: min(start, _LARGEST_HEADER)])
    if math.prod(shape) * kind.itemsize != len(data) - start:
        raise BadSample("bad array")
    return shape, kind, start


@functools.lru_cache(1024)  # numpy has Python parse it; the samples of a set have few different ones
def _parsed_header(header: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type; `array_header` says of what."""
    try:
        file = io.BytesIO(header)
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, kind = read(file, max_header_size=4096)
    except Exception:  # what numpy raises on a hostile header is not a closed list
        raise BadSample("bad array") from None
    good = not fortran and kind.kind in "biuf" and kind.itemsize <= 8 and kind.isnative
    if not good or not 1 <= len(shape) <= 6 or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise BadSample("bad array")
    return shape, kind


def decode_array(data: bytes) -> StoredArray:
    """Numbers of a .npy file, read-only."""
    shape, kind, start = array_header(data)
    return np.frombuffer(data, kind, offset=start).reshape(shape).view(StoredArray)
