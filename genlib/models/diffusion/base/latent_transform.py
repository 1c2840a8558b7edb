"""How samples become what latent models train on: the picture cut to its shape, the numbers of its text, and where it was cut."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch

from genlib import random
from genlib.data.transforms.plain import fit_box, to_float
from genlib.nn.tokenizer import FixedLengthTokenizer
from genlib.types import Batch, Samples


class LatentTransform:
    """Decoded samples to `image` (B, C, h, w) in [0, 1], `tokens_0`, `tokens_1`, ... (B, N) of each text encoder, and `sizes` (B, 6).

    `sizes` are SDXL's: height and width of the original, top and left of the cut in the scaled image, height and width of the result.
    """

    fields = ("image", "text")

    def __init__(self, size: int, tokenizers: Sequence[FixedLengthTokenizer], random_crop: bool) -> None:
        self.image_size, self.tokenizers, self.random_crop = size, list(tokenizers), random_crop

    def __call__(self, samples: Samples) -> Batch:
        width, height = samples.bucket_size or (self.image_size, self.image_size)
        place = self.places(samples)
        cut = [fit_box(image, width, height, x, y) for image, (x, y) in zip(samples.fields["image"], place, strict=True)]
        sizes = [(h, w, top, left, height, width) for (w, h), (_, (left, top)) in zip(samples.original_sizes, cut, strict=True)]
        batch = {"image": to_float(np.stack([image for image, _ in cut])), "sizes": torch.tensor(sizes, dtype=torch.int32)}
        return batch | {f"tokens_{i}": tokenizer(samples.fields["text"]) for i, tokenizer in enumerate(self.tokenizers)}

    def places(self, samples: Samples) -> list[tuple[float, float]]:
        """Where each image is cut, in shares of what is over: a function of the sample's name, so that its latents can be kept."""
        if not self.random_crop:
            return [(0.5, 0.5)] * len(samples.keys)
        names = torch.tensor([zlib.crc32(key.encode()) for key in samples.keys])
        return [(x, y) for x, y in random.uniform(names, (2,), seed=0, stream="crop").tolist()]
