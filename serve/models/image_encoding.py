"""Pictures on their way out: tensors to PNG files that say how they were made."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

SETTINGS = "parameters"
"""Name of the text chunk in which the field's tools keep a picture's settings, `..., Seed: 7` among them."""


def per_row(pictures: Tensor) -> int:
    """K of (B, K, ...) with three more axes, else 1."""
    return pictures.shape[1] if pictures.dim() == 5 else 1


def pixels(pictures: Tensor) -> Tensor:
    """Pictures (..., C, H, W) in [0, 1] -> uint8 (..., H, W, C), on the CPU."""
    # a sampler may give nan, which has no defined byte
    return (pictures.detach().movedim(-3, -1).float().nan_to_num().clamp(0, 1) * 255 + 0.5).byte().cpu().contiguous()


def files(pictures: Tensor) -> list[bytes]:
    """PNG files of pictures (B, C, H, W) or (B, K, C, H, W) in [0, 1], row by row, which say nothing but their pixels."""
    return packed(pixels(pictures))


def packed(pixels: Tensor, parameters: Mapping[str, str] | None = None, seeds: Sequence[int] = ()) -> list[bytes]:
    """PNG files of uint8 (B, H, W, C) or (B, K, H, W, C), row by row, each with its parameters and its row's seed as text.

    Without parameters a file says nothing but its pixels.
    """
    count, known = per_row(pixels), len(seeds) == len(pixels)
    return [
        png(image, None if parameters is None else with_seed(parameters, seeds[number // count] if known else None))
        for number, image in enumerate(pixels.flatten(0, -4).numpy())
    ]


def with_seed(parameters: Mapping[str, str], seed: int | None) -> dict[str, str]:
    """The parameters with this row's seed: as `seed`, and in the settings that other tools read where there are any."""
    if seed is None:
        return dict(parameters)
    settings = {SETTINGS: f"{parameters[SETTINGS]}, Seed: {seed}"} if SETTINGS in parameters else {}
    return {**parameters, **settings, "seed": str(seed)}


def png(image: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """uint8 (H, W, C) as a PNG file (W3C's third edition), with text chunks.

    Packed for speed, a few times faster than by PIL, which tries every filter on every row: rows are differences from the one above, at
    zlib's first level.
    """
    height, width, channels = image.shape
    rows = image.reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    texts = [_text(name, value) for name, value in (text or {}).items()]
    return b"".join((_MAGIC, _chunk(b"IHDR", header), *texts, _chunk(b"IDAT", zlib.compress(filtered, 1)), _END))


def _text(name: str, value: str) -> bytes:
    """A chunk of Latin-1, or of UTF-8 where that has no such signs."""
    try:
        return _chunk(b"tEXt", f"{name}\0{value}".encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", name.encode("latin-1") + b"\0\0\0\0\0" + value.encode())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((len(data).to_bytes(4), kind, data, zlib.crc32(data, zlib.crc32(kind)).to_bytes(4)))


_MAGIC, _END = b"\x89PNG\r\n\x1a\n", _chunk(b"IEND", b"")
_UP, _COLOURS = 2, {1: 0, 2: 4, 3: 2, 4: 6}
"""The number of the filter, and those of kinds of colours by their channels: grey, and red, green and blue, each without and with opacity."""
