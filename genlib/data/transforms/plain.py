"""From decoded samples to tensors: the plain conversion, and helpers for the transforms of tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genlib.data.codecs.decode import PICTURES, StoredArray
from genlib.types import Batch, Samples


def _filter(smooth: bool) -> Image.Resampling:
    return Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST


def fit_square(image: np.ndarray, side: int, smooth: bool = True) -> np.ndarray:
    """The middle square of an image, scaled to `side` pixels with antialiasing. uint8 (H, W, C) -> (side, side, C).

    Not `smooth`, each pixel is one of the image's own, as a map of numbers needs it.
    """
    height, width, channels = image.shape
    if height == width == side:
        return image
    short = min(height, width)
    top, left = (height - short) / 2, (width - short) / 2
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    box = (left, top, left + short, top + short)
    return np.asarray(picture.resize((side, side), _filter(smooth), box=box)).reshape(side, side, channels)


def fit_box(image: np.ndarray, width: int, height: int, x: float = 0.5, y: float = 0.5, smooth: bool = True) -> tuple[np.ndarray, tuple[int, int]]:
    """An image scaled with antialiasing until it just covers a box, and cut to it. uint8 (H, W, C) -> (height, width, C).

    x and y in [0, 1] place the box on the side that is too long: 0 left and top, 0.5 in the middle. Also returns (left, top), the
    box's place in pixels of the scaled image, with which SDXL is conditioned (Podell et al. 2023, arXiv:2307.01952, section 2.2).
    `smooth` is that of `fit_square`.
    """
    high, wide, channels = image.shape
    if width * high >= height * wide:
        scaled_width, scaled_height = width, max(height, (2 * high * width + wide) // (2 * wide))
    else:
        scaled_width, scaled_height = max(width, (2 * wide * height + high) // (2 * high)), height
    left, top = round(x * (scaled_width - width)), round(y * (scaled_height - height))
    if (high, wide) == (scaled_height, scaled_width):
        return image[top : top + height, left : left + width], (left, top)
    across, down = wide / scaled_width, high / scaled_height
    box = (left * across, top * down, min(wide, (left + width) * across), min(high, (top + height) * down))
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    cut = np.asarray(picture.resize((width, height), _filter(smooth), box=box)).reshape(height, width, channels)
    return cut, (left, top)


def stack_images(images: Sequence[np.ndarray], side: int = 0, smooth: bool = True) -> np.ndarray:
    """Images (H, W, C) of any size -> uint8 (B, side, side, C); with side 0 all must have one size already, kept."""
    if side:
        images = [image if image.shape[0] == image.shape[1] == side else fit_square(image, side, smooth) for image in images]
    elif any(image.shape != images[0].shape for image in images):
        other = next(image.shape for image in images if image.shape != images[0].shape)
        raise ValueError(f"images have many sizes, {images[0].shape[:2]} and {other[:2]} among them; give one with --data.image-size")
    return np.stack(images)


def to_float(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W) in [0, 1], contiguous."""
    pixels = torch.from_numpy(images)
    out = torch.empty(pixels.shape[0], pixels.shape[3], *pixels.shape[1:3])
    out.copy_(pixels.permute(0, 3, 1, 2))
    return out.mul_(1 / 255)


def pad_sequences(values: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Sequences (T_i, ...) -> (B, max T, ...) filled up with zeros, and the lengths (B,) int64."""
    rest = {value.shape[1:] for value in values if len(value)}
    if len(rest) > 1 or any(value.ndim < 1 for value in values):
        raise ValueError(f"sequences of one batch have elements of different shapes, {sorted(rest)[:2]}; give all .npy members one")
    lengths = torch.tensor([len(value) for value in values])
    padded = torch.zeros(len(values), int(lengths.max()), *(rest.pop() if rest else ()), dtype=torch.from_numpy(np.empty(0, values[0].dtype)).dtype)
    for row, value in enumerate(values):
        padded[row, : len(value)] = torch.from_numpy(np.array(value))
    return padded, lengths


class PlainTransform:
    """Images to float32 (B, C, H, W) in [0, 1] under `image`, labels to int64 (B,); no augmentation.

    Masks and other maps become float32 (B, 1, H, W): their numbers, such as a palette's indices, over 255, never mixed by scaling.
    A batch of an aspect-ratio bucket is of the bucket's size, else images are squares. Labels come from `.cls` members, else from a
    number `label` in the `.json` ones. A `.npy` member `name` becomes (B, T, ...) with zeros behind the shorter ones, and
    `name_length` (B,). Fields of partners begin with their role: `positive_image`.
    """

    fields: tuple[str, ...] | None = None

    def __init__(self, image_size: int = 0, partners: Sequence[str] = ()):
        self.image_size = image_size
        """Pixels a side; 0 keeps what is stored. With buckets only whether it is 0 matters: decoders may then not shrink."""
        self.partners = tuple(partners)
        """Roles of the samples that it wants beside each row; see `genlib.data.order.partners`."""

    def __call__(self, samples: Samples) -> Batch:
        batch = self._fields(samples)
        for role, partner in samples.partners.items():
            batch.update({f"{role}_{name}": value for name, value in self._fields(partner).items()})
        return batch

    def _fields(self, samples: Samples) -> Batch:
        batch: Batch = {}
        for name, values in samples.fields.items():
            if isinstance(values[0], StoredArray):
                batch[name], batch[f"{name}_length"] = pad_sequences(values)
            elif isinstance(values[0], np.ndarray):
                batch[name] = to_float(self._stacked(values, samples.bucket_size, smooth=name in PICTURES))
            elif isinstance(values[0], int):
                batch[name] = torch.tensor(values, dtype=torch.int64)
        labels = [facts.get("label") for facts in samples.fields.get("json", ())]
        if labels and "label" not in batch and all(type(label) is int and abs(label) < 2**63 for label in labels):
            batch["label"] = torch.tensor(labels, dtype=torch.int64)
        return batch

    def _stacked(self, images: Sequence[np.ndarray], bucket_size: tuple[int, int] | None, smooth: bool = True) -> np.ndarray:
        if bucket_size is None:
            return stack_images(images, self.image_size, smooth)
        return np.stack([fit_box(image, *bucket_size, smooth=smooth)[0] for image in images])
