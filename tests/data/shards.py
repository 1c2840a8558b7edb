"""Shards for tests, written with the standard library so that anything can be put into them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Entry = tuple[str, bytes]


def picture(value: int = 0, size: int = 8, kind: str = "png", channels: int = 3) -> bytes:
    """An encoded image of one colour, `value`."""
    buffer = io.BytesIO()
    pixels = np.full((size, size, 3) if channels == 3 else (size, size), value, np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pair(number: int, size: int = 8) -> list[Entry]:
    """Members of one good sample whose pixels, label and caption say its number."""
    key = f"{number:05d}"
    return [(f"{key}.png", picture(number % 256, size)), (f"{key}.txt", f"picture {number}".encode()), (f"{key}.cls", str(number).encode())]


def tar_bytes(entries: Sequence[Entry], form: int = tarfile.USTAR_FORMAT, pax: Mapping[str, str] | None = None) -> bytes:
    """A tar with these regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = dict(pax or {})
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path: Path, entries: Sequence[Entry], **options) -> Path:
    """Writes `tar_bytes(entries)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(entries, **options))
    return path


def write_set(folder: Path, count: int, per_shard: int = 10, prefix: str = "") -> Path:
    """A folder of shards with `count` good samples."""
    for shard, first in enumerate(range(0, count, per_shard)):
        write_tar(folder / f"{prefix}{shard:05d}.tar", [entry for number in range(first, min(first + per_shard, count)) for entry in pair(number)])
    return folder
