"""Fashion-MNIST: 70,000 grey images of clothes in ten classes, 28 x 28 pixels (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747).

Read from the four IDX files of Debian's package dataset-fashion-mnist, or from a folder that holds them, packed or not.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genlib.data.shards.writer import png
from genlib.files import open_regular, read_regular

VERSION = 1
DEFAULT_SIZE = 28
CLASS_NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_STEMS = {"train": "train", "validation": "t10k"}
_UBYTE = 8  # the type code of unsigned bytes, the third byte of the file
_LIMIT_BYTES = 1 << 28  # of one unpacked file; the largest of this set has 47 MB


def find(where: str | Path = "") -> Path:
    """The folder of the files: `where`, else what GENLIB_FASHION_MNIST names, else Debian's. ValueError where a file is missing."""
    folder = Path(where or os.environ.get("GENLIB_FASHION_MNIST") or DEBIAN).expanduser()
    for stem in _STEMS.values():
        for kind in ("images-idx3", "labels-idx1"):
            _file(folder, f"{stem}-{kind}-ubyte")
    return folder


def _file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise ValueError(
        f"there is no {name}.gz in {folder}; install Debian's dataset-fashion-mnist, or name a folder with the four files in GENLIB_FASHION_MNIST"
    )


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Unsigned bytes of `dims` dimensions from an IDX file, gzipped where its name ends in .gz. ValueError where a byte is missing or too many."""
    try:
        with open_regular(path) as plain, gzip.open(plain) if path.suffix == ".gz" else plain as file:
            content = file.read(_LIMIT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); get it again") from None
    start = 4 + 4 * dims
    if len(content) < start or content[:4] != bytes((0, 0, _UBYTE, dims)):
        raise ValueError(f"{path} is not an IDX file of bytes with {dims} dimensions; get it again")
    shape = struct.unpack_from(f">{dims}I", content, 4)
    expected = int(np.prod(shape, dtype=object)) + start
    if len(content) != expected:
        raise ValueError(f"{path} should have {expected:,} bytes for the shape {shape} that it states, and has {len(content):,}; get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def load(split: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W) uint8 and labels (N,) uint8 of "train" or "validation"."""
    stem = _STEMS[split]
    images, labels = read_idx(_file(folder, f"{stem}-images-idx3-ubyte"), 3), read_idx(_file(folder, f"{stem}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels) or not len(labels) or labels.max() >= len(CLASS_NAMES):
        raise ValueError(f"{folder}: the {stem} files do not fit together: {len(images):,} images, {len(labels):,} labels of 0 to 9; get them again")
    return images, labels


def fingerprint() -> str:
    """Changes when a file or the way of writing does."""
    digest, folder = hashlib.sha256(f"fashion_mnist {VERSION}".encode()), find()
    for stem in _STEMS.values():
        for kind in ("images-idx3", "labels-idx1"):
            digest.update(read_regular(_file(folder, f"{stem}-{kind}-ubyte"), _LIMIT_BYTES))
    return digest.hexdigest()[:12]


def samples(split: str, size: int, folder: Path) -> Iterator[dict[str, bytes]]:
    """Members of each sample: png, cls, and txt with the class's name. Sizes other than 28 are interpolated."""
    from PIL import Image

    for image, label in zip(*load(split, folder), strict=True):
        scaled = image if image.shape == (size, size) else np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        yield {"png": png(scaled), "cls": str(label).encode(), "txt": CLASS_NAMES[label].encode()}
