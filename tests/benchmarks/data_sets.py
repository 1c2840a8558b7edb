"""Shards for data.py: drawn pictures with captions and facts, the same ones for every run."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import simplejpeg

_WORDS = ["a", "red", "green", "small", "wide", "old", "photo", "picture", "of", "on", "under", "beside", "boat", "tree", "house", "river", "cat"]
_MIX = 64


def _grounds(side: int, random: np.random.Generator) -> np.ndarray:
    """Some smooth backgrounds with fine grain, float32 (M, S, S, 3): a low-resolution field drawn out, like sky, wall or skin."""
    coarse = random.uniform(40, 215, (_MIX, 5, 5, 3)).astype(np.float32)
    at = np.linspace(0, 3.999, side, dtype=np.float32)
    low, part = at.astype(int), at % 1
    rows = coarse[:, low] * (1 - part)[:, None, None] + coarse[:, low + 1] * part[:, None, None]
    smooth = rows[:, :, low] * (1 - part)[:, None] + rows[:, :, low + 1] * part[:, None]
    return smooth + random.normal(0, 6, smooth.shape).astype(np.float32)


def _picture(grounds: np.ndarray, random: np.random.Generator) -> bytes:
    """A background and four discs as a JPEG of quality 85: 2 KB at 64 pixels a side, 18 KB at 256."""
    image = grounds[random.integers(_MIX)].copy()
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    for row, column, radius in random.uniform(0.05, 0.95, (4, 3)) * image.shape[0]:
        image[(y - row) ** 2 + (x - column) ** 2 < (radius / 3) ** 2] += random.uniform(-90, 90, 3).astype(np.float32)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8)), quality=85)


def write(folder: Path, side: int, samples: int, shards: int, form: int = tarfile.USTAR_FORMAT) -> Path:
    """Writes `samples` of jpg + json + txt to tars of equal length; PAX ones state a fine time before every member, as GNU tar and Python do."""
    random = np.random.default_rng(side)
    grounds, per_shard = _grounds(side, random), samples // shards
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=form) as tar:
            for number in range(shard * per_shard, (shard + 1) * per_shard):
                caption = " ".join(random.choice(_WORDS, 12))
                facts = {"key": f"{number:09d}", "caption": caption, "width": side, "height": side, "aesthetic": round(random.uniform(3, 8), 3)}
                members = {"jpg": _picture(grounds, random), "txt": caption.encode(), "json": json.dumps(facts).encode()}
                for extension, content in members.items():
                    member = tarfile.TarInfo(f"{number:09d}.{extension}")
                    member.size, member.mtime = len(content), 1.5 if form == tarfile.PAX_FORMAT else 1
                    tar.addfile(member, io.BytesIO(content))
    return folder
