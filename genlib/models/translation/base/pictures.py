"""Pictures of two kinds, A and B, as translation sees them: of pairs both of a sample, without pairs one of each of two sets."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from genlib.config import Config, limited
from genlib.data.transforms.augment import ImageAugmentation, augment
from genlib.data.transforms.plain import stack_images, to_float
from genlib.types import Batch, DataSpec, Samples


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureConfig(Config):
    """How large pictures are, and how those of training are moved."""

    image_size: int = limited(0, at_least=0)
    """Pixels a side; 0 is the data's own."""
    stored_size: int = limited(0, at_least=0)
    """Pixels a side at which a picture of training is augmented; 0 is `image_size`."""
    augmentation: ImageAugmentation = field(default_factory=ImageAugmentation)
    """Of pictures of training. Both of a pair move alike."""

    def side(self, data: DataSpec) -> int:
        """Pixels a side. ValueError where neither the data nor the settings say it."""
        if not (self.image_size or data.image_size):
            raise ValueError("translation needs images of one size, and the samples have none; give --data.image-size, or take a set such as shapes")
        return self.image_size or data.image_size


def random_crop(side: int, stored: int) -> PictureConfig:
    """The papers' jitter: scaled to `stored` pixels, of which a random square of `side` stays, half of them mirrored."""
    share = side / stored
    jitter = ImageAugmentation(min_scale=1 / share, max_scale=1 / share, shift=1 - share, flip=0.5)
    return PictureConfig(image_size=side, stored_size=stored, augmentation=jitter)


class TranslationTransform:
    """Batches with pictures `a` and `b`, (B, C, side, side) float32 in [-1, 1].

    Of pairs `a` is a sample's source and `b` its image. With `two_sets`, `b` is the image of a sample of the second set, and `a` the first set's
    source where it has one, else its image; held-out rows of such a source have `b_of_a` besides, the image that belongs to it.
    """

    fields = ("source", "image")

    def __init__(self, pictures: PictureConfig, side: int, *, two_sets: bool, train: bool) -> None:
        changed = train and pictures.augmentation != ImageAugmentation()
        self.augmentation = pictures.augmentation if changed else None
        self.side, self.image_size = side, (pictures.stored_size or side) if changed else side
        self.two_sets, self.train = two_sets, train
        self.partners = ("other",) if two_sets else ()

    def __call__(self, samples: Samples) -> Batch:
        key = torch.from_numpy(samples.position)
        first = "source" if "source" in samples.fields else "image"
        if not self.two_sets:
            return {"a": self._pixels(samples, "source", key, samples.seed), "b": self._pixels(samples, "image", key, samples.seed)}
        a = self._pixels(samples, first, 2 * key, samples.seed)
        b = self._pixels(samples.partners["other"], "image", 2 * key + 1, samples.seed)
        known = {} if self.train or first == "image" else {"b_of_a": self._pixels(samples, "image", 2 * key, samples.seed)}
        return {"a": a, "b": b, **known}

    def _pixels(self, samples: Samples, name: str, key: Tensor, seed: int) -> Tensor:
        images = to_float(stack_images(samples.fields[name], self.image_size))
        if self.augmentation is not None:
            images = augment(images, key, self.augmentation, size=self.side, seed=seed)
        return images.mul_(2).sub_(1)
