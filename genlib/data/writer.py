"""Writes shards through webdataset's own writer: equal samples give equal bytes, and shards get their names once all are whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genlib.data.files import write_atomically


def png(image: np.ndarray) -> bytes:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) as a PNG."""
    from io import BytesIO

    buffer = BytesIO()
    Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image).save(buffer, "png", compress_level=6)
    return buffer.getvalue()


def write_shards(folder: Path, split: str, samples: Iterable[Mapping[str, bytes]], *, max_count: int = 10_000, max_bytes: int = 256 << 20) -> int:
    """Writes samples, each its members' bytes by extension, to `folder/SPLIT-00000.tar`, ...; returns how many.

    A shard ends after `max_count` samples or when it passes `max_bytes`. Keys are the samples' numbers over the split.
    """
    from webdataset.writer import ShardWriter  # imports torch.distributed and more

    folder.mkdir(parents=True, exist_ok=True)
    count, parts = 0, []

    def finish(name: str) -> None:
        parts.append(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())

    same = {"mtime": 0, "user": "genlib", "group": "genlib"}
    pattern = f"{str(folder).replace('%', '%%')}/{split}-%05d.tar.part"
    try:
        with ShardWriter(pattern, maxcount=max_count, maxsize=max_bytes, post=finish, verbose=0, compress=False, encoder=False, **same) as writer:
            for count, members in enumerate(samples, 1):
                writer.write({"__key__": f"{count - 1:08d}", **members})
    except BaseException:
        for part in parts:
            part.unlink()
        raise
    written = {part.replace(part.with_suffix("")) for part in parts}
    for path in set(folder.glob(f"{split}-*.tar")) - written:
        path.unlink()  # of an earlier, longer set
    return count


def write_facts(folder: Path, **facts: Any) -> None:
    """Writes `dataset.json` beside the shards: what a reader cannot see in them, such as name, class_names and counts of what was left out."""
    write_atomically(folder / "dataset.json", json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n")
