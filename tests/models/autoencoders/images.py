"""What tests of image autoencoders train on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from genlib.types import Batch, DataSpec, Samples, Transform


class Pictures:
    """Discs of many places, sizes and colours, 16 pixels a side; all of them are held out too."""

    def __init__(self, channels: int = 3, count: int = 160) -> None:
        self.spec = DataSpec(channels=channels, image_size=16, num_samples=count, digest="pictures")
        draw, place = np.random.default_rng(0).uniform(size=(count, 6)), np.mgrid[:16, :16]
        inside = ((place - 4 - 8 * draw[:, :2, None, None]) ** 2).sum(1) < (2 + 4 * draw[:, 2, None, None]) ** 2
        self.images = (inside[..., None] * draw[:, None, None, 3 : 3 + channels] * 255).astype(np.uint8)

    def batches(
        self, split: str, size: int, *, rank: int = 0, world: int = 1, seed: int = 0, start: int = 0, transform: Transform | None = None
    ) -> Iterator[Batch]:
        assert transform is not None
        each = -(-size // world)
        while split == "train" or start < len(self.images):
            position = np.arange(start + rank * each, start + (rank + 1) * each)
            rows = [(p * 7 + seed) % len(self.images) if split == "train" else min(p, len(self.images) - 1) for p in position.tolist()]
            samples = Samples(position, [str(row) for row in rows], {"image": [self.images[row] for row in rows]}, np.zeros(each, bool), seed)
            valid = position < (start + size if split == "train" else len(self.images))
            yield {**transform(samples), "position": torch.from_numpy(position), "valid": torch.from_numpy(valid)}
            start += size

    def captions(self, split: str, limit: int) -> Iterator[str]:
        return iter(())

    def keys(self, split: str, positions: Sequence[int], size: int, *, seed: int = 0) -> list[str]:
        return [str(position) for position in positions]
