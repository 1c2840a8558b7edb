"""Augmentation of batches of images and captions, keyed by position: a sample looks the same whatever rank or batch holds it.

Images are changed by one affine resampling, then in stroke, then by hiding a square, then in colour; captions lose words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import random
from genlib.config import Config, limited
from genlib.data.transforms.plain import stack_images, to_float
from genlib.types import Batch, Samples


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageAugmentation(Config):
    """How far a training image may move; every default is no change."""

    min_scale: float = limited(1.0, above=0)
    """Smallest size of the picture, as a share of the frame."""
    max_scale: float = limited(1.0, above=0)
    """Largest size."""
    stretch: float = limited(0.0, at_least=0, below=1)
    """Largest change of aspect to either side."""
    degrees: float = limited(0.0, at_least=0)
    """Largest rotation to either side."""
    shift: float = limited(0.0, at_least=0)
    """Largest shift to any side, in half-widths of the frame."""
    thickness: float = limited(0.0, at_least=0, at_most=1)
    """Largest share of a one-pixel dilation or erosion of bright strokes."""
    outline: float = limited(0.0, at_least=0, at_most=1)
    """Probability of keeping the edges of bright areas alone."""
    invert: float = limited(0.0, at_least=0, at_most=1)
    """Probability of exchanging dark and bright."""
    hide: float = limited(0.0, at_least=0, at_most=1)
    """Probability of a blank square."""
    hide_side: float = limited(0.3, above=0, below=1)
    """Side of the blank square, as a share of the frame."""
    flip: float = limited(0.0, at_least=0, at_most=1)
    """Probability of mirroring from left to right."""
    color: float = limited(0.0, at_least=0, at_most=1)
    """Largest change of the brightness of each colour channel, as a share of it."""
    grey: float = limited(0.0, at_least=0, at_most=1)
    """Probability of losing all colour."""


def augment(images: Tensor, position: Tensor, config: ImageAugmentation, *, size: int, seed: int) -> Tensor:
    """images (B, C, H, W) uint8 or float in [0, 1], position (B,) -> float32 (B, C, size, size) in [0, 1]."""
    draw = random.uniform(position, (10,), seed=seed, stream="augment").unbind(1)
    place = affine(draw[:5], config)
    if config.flip:
        mirrored = random.uniform(position, seed=seed, stream="flip") < config.flip
        place[:, :, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    images = resample(images, size, place)
    if config.outline:
        images = outline(images, draw[5] < config.outline)
    if config.thickness:
        images = thicken(images, _between(draw[6], -config.thickness, config.thickness))
    if config.hide:
        images = hide(images, draw[7] < config.hide, draw[8], draw[9], config.hide_side)
    if config.color or config.grey:
        images = recolor(images, random.uniform(position, (images.shape[1] + 1,), seed=seed, stream="color"), config.color, config.grey)
    if config.invert:
        chosen = random.uniform(position, seed=seed, stream="invert") < config.invert
        images = torch.where(chosen[:, None, None, None], 1 - images, images)
    return images


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def affine(draw: Sequence[Tensor], config: ImageAugmentation) -> Tensor:
    """Five uniform numbers (B,) each (scale, stretch, angle, shifts) -> (B, 2, 3), from places of the new image to places of the old."""
    scale, aspect = _between(draw[0], config.min_scale, config.max_scale), _between(draw[1], -config.stretch, config.stretch)
    angle = _between(draw[2], -config.degrees, config.degrees) * (math.pi / 180)
    right, down = (_between(u, -config.shift, config.shift) for u in draw[3:5])
    wide, high, cos, sin = 1 / (scale * (1 + aspect)), 1 / (scale * (1 - aspect)), angle.cos(), angle.sin()
    return torch.stack([cos * wide, sin * wide, right, -sin * high, cos * high, down], 1).unflatten(1, (2, 3))


def resample(images: Tensor, size: int, matrix: Tensor) -> Tensor:
    """(B, C, H, W) -> float32 (B, C, size, size), bilinear: place (x, y) in [-1, 1] takes the image at matrix (B, 2, 3) @ (x, y, 1).

    Outside the image is zero.
    """
    if images.dtype == torch.uint8:
        images = images.float().mul_(1 / 255)
    place = (torch.arange(size, device=images.device) + 0.5) * (2 / size) - 1
    across, down, origin = (matrix[:, None, None, :, k] for k in range(3))  # (B, 1, 1, 2)
    grid = across * place[None, None, :, None] + (down * place[None, :, None, None] + origin)
    return F.grid_sample(images, grid, align_corners=False)


def dilate(images: Tensor) -> Tensor:
    """The brightest of each pixel and its eight neighbours, by shifted maxima along each axis: far cheaper on a CPU than a max pool."""
    for axis in (3, 2):
        n = images.shape[axis] - 1
        wide = images.clone()
        after, before = wide.narrow(axis, 1, n), wide.narrow(axis, 0, n)
        torch.maximum(after, images.narrow(axis, 0, n), out=after)
        torch.maximum(before, images.narrow(axis, 1, n), out=before)
        images = wide
    return images


def thicken(images: Tensor, amount: Tensor) -> Tensor:
    """Blends with the dilation where amount (B,) is above 0 and with the erosion where it is below; 1 is all of it."""
    signed = images * amount.sign()[:, None, None, None]  # an erosion is the dilation of the negative: one serves both
    return images.addcmul(dilate(signed).sub_(signed), amount[:, None, None, None])


def outline(images: Tensor, chosen: Tensor) -> Tensor:
    """Bright areas less their erosion, where chosen (B,) is true."""
    rows = chosen.nonzero()[:, 0]
    picked = images[rows]
    return images.index_copy(0, rows, picked + dilate(-picked))


def hide(images: Tensor, chosen: Tensor, x: Tensor, y: Tensor, side: float) -> Tensor:
    """Zero in a square around (x, y), in shares of the frame, where chosen (B,) is true."""
    place = (torch.arange(images.shape[-1]) + 0.5) / images.shape[-1]
    across, down = ((place - centre[:, None]).abs() < side / 2 for centre in (x, y))
    return images.masked_fill((down[:, :, None] & across[:, None, :] & chosen[:, None, None])[:, None], 0.0)


def recolor(images: Tensor, draw: Tensor, color: float, grey: float) -> Tensor:
    """Channels brightened or darkened each by a share up to `color`, then all made one with probability `grey`. draw (B, C + 1) uniform."""
    gain, chosen = _between(draw[:, 1:], 1 - color, 1 + color), draw[:, 0] < grey
    images = images.mul(gain[:, :, None, None]).clamp_(0, 1)
    return torch.where(chosen[:, None, None, None], images.mean(1, keepdim=True), images)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionAugmentation(Config):
    """Changes of a training caption; every default is no change."""

    drop_words: float = limited(0.0, at_least=0, below=1)
    """Probability of each word to be left out; one always stays."""
    shuffle: float = limited(0.0, at_least=0, at_most=1)
    """Probability of putting the words in another order."""
    last_words: tuple[str, ...] = ()
    """Words that say how a picture is drawn rather than what it shows, where they stand last."""
    drop_last: float = limited(0.0, at_least=0, at_most=1)
    """Probability of leaving out such a last word."""


def augment_captions(captions: Sequence[str], position: Tensor, config: CaptionAugmentation, *, seed: int) -> list[str]:
    """Captions (B,) with words left out, by position (B,)."""
    if not config.drop_words and not config.drop_last and not config.shuffle:
        return list(captions)
    draws = random.uniform(position, (32,), seed=seed, stream="caption").tolist()
    return [_shortened(caption, draw, config) for caption, draw in zip(captions, draws, strict=True)]


def _shortened(caption: str, draw: Sequence[float], config: CaptionAugmentation) -> str:
    words = caption.split()
    if len(words) > 1 and words[-1] in config.last_words and draw[0] < config.drop_last:
        words = words[:-1]
    kept = [word for i, word in enumerate(words) if draw[2 + i % 15] >= config.drop_words] or words[:1]
    if draw[1] < config.shuffle:
        kept = [word for _, word in sorted((draw[17 + i % 15], word) for i, word in enumerate(kept))]
    return " ".join(kept)


class Views:
    """Transform for contrastive learning: `count` independent augmentations of each image, image (B, count, C, size, size), and labels.

    Images are cut to squares of `stored` pixels before, by default a quarter more than `size`.
    """

    fields = ("image", "label")

    def __init__(self, config: ImageAugmentation, size: int, count: int = 2, stored: int = 0):
        self.config, self.size, self.count = config, size, count
        self.image_size = stored or size * 5 // 4

    def __call__(self, samples: Samples) -> Batch:
        images = to_float(stack_images(samples.fields["image"], self.image_size))
        keys = torch.from_numpy(samples.position) * self.count
        views = [augment(images, keys + view, self.config, size=self.size, seed=samples.seed) for view in range(self.count)]
        labels = {"label": torch.tensor(samples.fields["label"])} if "label" in samples.fields else {}
        return {"image": torch.stack(views, 1), **labels}
