"""Samples as plain vectors, for networks without spatial structure: images flattened, or the numbers of `.npy` members."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.data.transforms.plain import PlainTransform, to_float
from genlib.ports import Sizes
from genlib.types import Batch, DataSpec, Samples


@dataclass(frozen=True, slots=True)
class VectorShape:
    """Shape behind a vector of D numbers: an image (C, H, W) flattened, or the D numbers alone, (D,)."""

    sides: tuple[int, ...]

    @classmethod
    def of(cls, data: DataSpec, image_size: int = 0) -> VectorShape:
        """Shape of a set's samples: images at `image_size` pixels a side or their own size, or vectors. ValueError where they are neither."""
        side = image_size or data.image_size
        if side:
            return cls((data.channels, side, side))
        if data.vector_size:
            return cls((data.vector_size,))
        raise ValueError(
            "the samples are neither images of one size nor vectors (.npy members): give --data.image-size, or a set such as digits, "
            "fashion_mnist, shapes, icons or rings2d"
        )

    @property
    def size(self) -> int:
        """D."""
        return math.prod(self.sides)

    @property
    def is_image(self) -> bool:
        """Whether a vector is an image flattened."""
        return len(self.sides) == 3

    @property
    def image_size(self) -> int:
        """Pixels a side; 0 without images."""
        return self.sides[-1] if self.is_image else 0

    def port_sizes(self, data: DataSpec, code: int = 0) -> Sizes:
        """What the ports of a task on such samples measure; `code` are the numbers of a sample's code."""
        channels, side = (self.sides[0], self.sides[-1]) if self.is_image else (data.channels, 0)
        return Sizes(channels=channels, side=side, vector=0 if self.is_image else self.size, code=code, classes=data.class_names)

    def image(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, C, H, W)."""
        assert self.is_image, "these vectors are no images"
        return x.view(-1, *self.sides)

    def flat(self, samples: Tensor, device: torch.device | None = None) -> Tensor:
        """Samples as a user gives them -> float32 (B, D), on the device where one is named.

        Images (B, C, H, W) of another size are scaled; vectors (B, D), images flattened among them, stay. ValueError where they are neither.
        """
        x = samples.to(device, torch.float32)
        if self.is_image and x.dim() == 4 and x.shape[1] == self.sides[0]:
            if x.shape[2:] != self.sides[1:]:
                x = F.interpolate(x, self.sides[1:], mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            return x.flatten(1)
        if x.dim() == 2 and x.shape[1] == self.size:
            return x
        kind = f"images (B, {', '.join(map(str, self.sides))}) in [0, 1]" if self.is_image else f"vectors (B, {self.size})"
        raise ValueError(f"samples of shape {tuple(samples.shape)} are not what the model knows, {kind}; give such ones")


class VectorTransform(PlainTransform):
    """Images in [0, 1], flattened, or the numbers of `.npy` members as they are: `x` float32 (B, D); and `label` (B,) where there are labels."""

    def __init__(self, shape: VectorShape) -> None:
        super().__init__(shape.image_size)
        self.shape = shape
        self.fields = ("image" if shape.is_image else "array", "label", "json")

    def __call__(self, samples: Samples) -> Batch:
        labels = self._fields(replace(samples, fields={name: values for name, values in samples.fields.items() if name in ("label", "json")}))
        return {"x": self._images(samples) if self.shape.is_image else self._arrays(samples), **labels}

    def _images(self, samples: Samples) -> Tensor:
        return to_float(self._stacked(samples.fields["image"], None)).flatten(1)

    def _arrays(self, samples: Samples) -> Tensor:
        x = torch.zeros(len(samples.keys), self.shape.size)
        for row, values in enumerate(samples.fields["array"]):
            if values.size == self.shape.size:
                x[row] = torch.from_numpy(values.astype(np.float32)).flatten()
            elif not samples.failed[row]:
                raise ValueError(
                    f"{samples.keys[row]} holds {values.size} numbers and the first sample {self.shape.size}; give all .npy members one size"
                )
        return x
