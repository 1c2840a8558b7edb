"""Pictures as people have them, and Pillow's own reading of them, which knows nothing of ours."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from genlib.data.index.storage_path import StoragePath
from genlib.data.reading.reader import SampleReader
from genlib.data.shards.shard_set import ShardSet
from tests.data.shards import write_tar

TURNS = tuple(range(1, 9))
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "TIFF": {}, "BMP": {}, "GIF": {}}


def encoded(image: Image.Image, kind: str, turn: int = 1, **options: Any) -> bytes:
    """The file of an image, whose EXIF says that it is to be turned."""
    if turn != 1:
        options["exif"] = Image.Exif()
        options["exif"][274] = turn
    buffer = io.BytesIO()
    image.save(buffer, kind, **{**LOSSLESS.get(kind, {}), **options})
    return buffer.getvalue()


def half_red(width: int = 96, height: int = 64) -> Image.Image:
    """Its left half is red, the other blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


def disc(side: int = 32) -> Image.Image:
    """RGBA: a black disc on nothing."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., 3] = (x * x + y * y < (side / 3) ** 2) * 255
    return Image.fromarray(pixels)


def independent(data: bytes, mode: str = "RGB", background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """Pixels (H, W, C) as Pillow reads them: upright, 16 bits by their upper 8, on the background unless the mode has alpha."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert image is not None
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data and mode != "RGBA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
    pixels = np.asarray(image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def read_back(folder: Path, files: Mapping[str, bytes], field: str = "image", **options: Any) -> tuple[ShardSet, dict[str, np.ndarray]]:
    """What a tar of these members gives when it is read, by name without the extension; those that fail are left out."""
    shards = ShardSet.open([write_tar(folder / "train-00000.tar", list(files.items()))])
    return shards, read_shards(shards, field, **options)


def read_shards(shards: ShardSet, field: str = "image", **options: Any) -> dict[str, np.ndarray]:
    """Every usable sample's field, by its key."""
    names, values, failed = SampleReader(shards, **options).read(np.arange(len(shards)), (field,))
    return {name.split(":")[1]: value for name, value, bad in zip(names, values[field], failed, strict=True) if not bad}


def paths_of(folder: Path) -> list[StoragePath]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("*.tar"))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG's chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(width: int, height: int, bits: int, color: int, rows: list[bytes], *between: bytes) -> bytes:
    """A PNG of these packed rows; `between` stands before the pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + pixels + png_chunk(b"IEND", b"")


def exif_bytes(turn: int, order: str = "<", kind: int = 3) -> bytes:
    """EXIF of one entry, the orientation, of one of TIFF's types of whole numbers."""
    value = struct.pack(f"{order}{'H' if kind == 3 else 'I'}", turn).ljust(4, b"\0")
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IHHHI", 8, 1, 274, kind, 1) + value + bytes(4)


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment, the first."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]
