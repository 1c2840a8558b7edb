"""Writes shards through webdataset's own writer: equal samples give equal bytes, and shards get their names once all are whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genlib.files import write_atomically
from genlib.json_text import json_text

UNFINISHED = ".*.tar.part"
"""Names of shards that are being written, or were when their writer was killed."""


def png(image: np.ndarray) -> bytes:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) as a PNG."""
    from io import BytesIO

    buffer = BytesIO()
    Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image).save(buffer, "png", compress_level=6)
    return buffer.getvalue()


class ShardWriter:
    """Writes samples to `folder/PREFIX-00000.tar`, ...: hidden until `commit`, which replaces all shards of that prefix.

    A shard ends after `max_count` samples or when its members pass `max_bytes`; its number has at least `digits` digits.
    """

    def __init__(self, folder: Path, prefix: str, *, max_count: int = 10_000, max_bytes: int = 256 << 20, digits: int = 5):
        self.folder, self.prefix, self.max_count, self.max_bytes, self.digits = folder, prefix, max_count, max_bytes, digits
        self.count = 0
        """Samples so far."""
        self._parts: list[tuple[Path, Path]] = []  # what is written, and the name it will have
        self._token = secrets.token_hex(4)  # a process that outlives its job may still write the same shard
        self._file = self._tar = None
        self._count = self._bytes = 0

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Adds a sample: its members' bytes by extension."""
        if self._tar is None or self._count >= self.max_count or self._bytes >= self.max_bytes:
            self._next()
        assert self._tar is not None
        self._bytes += self._tar.write({"__key__": key, **members})
        self._count += 1
        self.count += 1

    def _next(self) -> None:
        from webdataset.writer import TarWriter  # imports torch.distributed and more

        self._finish()
        name = f"{self.prefix}-{len(self._parts):0{self.digits}d}.tar"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._parts.append((self.folder / f".{name[:-4]}.{self._token}.tar.part", self.folder / name))
        self._file = self._parts[-1][0].open("wb")
        self._tar = TarWriter(self._file, mtime=0, user="genlib", group="genlib", compress=False, encoder=False)
        self._count = self._bytes = 0

    def _finish(self) -> None:
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = self._tar = None

    def commit(self) -> list[Path]:
        """Gives all shards their names and returns them; those of an earlier, longer set go."""
        self._finish()
        for part, path in self._parts:
            part.replace(path)
        written = [path for _, path in self._parts]
        for path in set(self.folder.glob(f"{self.prefix}-*.tar")) - set(written):
            path.unlink()
        return written

    def discard(self) -> None:
        """Deletes what was written."""
        with contextlib.suppress(OSError):  # of a disk that is full: what is there goes anyway
            self._finish()
        for part, _ in self._parts:
            part.unlink(missing_ok=True)


def write_shards(folder: Path, split: str, samples: Iterable[Mapping[str, bytes]], *, max_count: int = 10_000, max_bytes: int = 256 << 20) -> int:
    """Writes samples, each its members' bytes by extension, to `folder/SPLIT-00000.tar`, ...; returns how many.

    A shard ends after `max_count` samples or when it passes `max_bytes`. Keys are the samples' numbers over the split.
    """
    writer = ShardWriter(folder, split, max_count=max_count, max_bytes=max_bytes)
    try:
        for number, members in enumerate(samples):
            writer.write(f"{number:08d}", members)
        writer.commit()
    except BaseException:
        writer.discard()
        raise
    return writer.count


def write_facts(folder: Path, **facts: Any) -> None:
    """Writes `dataset.json` beside the shards: what a reader cannot see in them, such as name, class_names and counts of what was left out."""
    write_atomically(folder / "dataset.json", json_text(facts, indent=1, sort_keys=True).encode() + b"\n")
