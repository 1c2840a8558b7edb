"""Some of a run's held-out samples, kept beside its results for whoever tries the model: a small shard as WebDataset reads it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from genlib.files import write_atomically

HELD_OUT = "held_out.tar"
"""In a run's `card` folder."""
_EXACT_SIDE = 96
"""Pixels a side up to which images are kept as they are; larger ones as JPEG."""
_QUALITY = 90


@dataclass(frozen=True, slots=True)
class HeldOutSample:
    """One of them."""

    words: str
    """Its caption, or its class; empty where it has neither."""
    image: bytes
    """A PNG or JPEG file."""

    @property
    def media_type(self) -> str:
        """Of the image."""
        return "image/png" if self.image.startswith(b"\x89PNG") else "image/jpeg"


def write_held_out(folder: Path, samples: Iterable[tuple[str, np.ndarray]]) -> int:
    """Keeps words and uint8 images (H, W) or (H, W, 3); without any, nothing stays. Returns how many there are."""
    count, content = 0, io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for count, (words, pixels) in enumerate(samples, 1):
            suffix, image = _file(pixels)
            for name, data in ((suffix, image), ("txt", words.encode())):
                member = tarfile.TarInfo(f"{count - 1:05d}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    if count:
        write_atomically(folder / HELD_OUT, content.getvalue())
    else:
        (folder / HELD_OUT).unlink(missing_ok=True)
    return count


def read_held_out(folder: Path) -> list[HeldOutSample]:
    """What was kept there, in order; nothing where there is none, or no whole one."""
    try:
        with tarfile.open(folder / HELD_OUT, mode="r:") as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    except (OSError, tarfile.TarError):
        return []
    found = []
    for name, data in members.items():
        key, _, suffix = name.partition(".")
        if suffix != "txt":
            found.append(HeldOutSample(members.get(f"{key}.txt", b"").decode(errors="replace"), data))
    return found


def _file(pixels: np.ndarray) -> tuple[str, bytes]:
    """Suffix and content."""
    content = io.BytesIO()
    if max(pixels.shape[:2]) <= _EXACT_SIDE:
        Image.fromarray(pixels).save(content, "PNG")
        return "png", content.getvalue()
    Image.fromarray(pixels).save(content, "JPEG", quality=_QUALITY)
    return "jpg", content.getvalue()
