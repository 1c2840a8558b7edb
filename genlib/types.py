"""The values that cross the borders between data, task and engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

Batch = dict[str, Tensor]
"""One rank's share of one global micro-batch: every tensor has B rows.

Always there: `position` (B,) int64, the sample's place in the global order of the run, from which all randomness is keyed;
`valid` (B,) bool, whether the row counts: False for a placeholder. What is over a batch leaves out rows that are not valid.
In training also `weight` (B,) float32, which the engine makes from `valid`: 0 for a placeholder, else such that the mean over ranks and
micro-batches of `genlib.task.weighted_mean` is the mean over the global batch, in which a sample that could not be read counts as 0.
Batches of shards also have `sample` (B,) int64, the sample's number in its split. Those of an `EncodedSet` have its values besides, as they
were kept, and nothing else.
By custom: `image` (B, C, H, W), `tokens` (B, N) int64, `label` (B,) int64.
"""

Metrics = dict[str, Tensor]
"""Detached values, each a scalar or one per sample (B,), which is then averaged like the loss."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where training stands. `index` counts optimizer steps from 0 to `total` - 1; `seed` is the run's."""

    index: int
    total: int
    seed: int = 0

    @property
    def progress(self) -> float:
        """Share of the run that is done before this step, in [0, 1)."""
        return self.index / self.total


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """What a task may know of its data when it is built; plain values, kept in every checkpoint."""

    channels: int = 3
    image_size: int = 0
    """Pixels a side that the source stores; 0 where samples have no image or many sizes."""
    class_names: tuple[str, ...] = ()
    has_captions: bool = False
    has_source: bool = False
    """Whether each sample has a second picture of the same size, `source`, of which `image` is to be made."""
    has_other: bool = False
    """Whether there is a second set beside the first, whose samples are no partners of any (`data.other`)."""
    several_captions: bool = False
    """Whether one of a sample's captions is drawn at each visit, so that what is made of it differs from visit to visit."""
    json_texts: tuple[str, ...] = ()
    """Fields of the samples' JSON with texts, where no captions are read: among them may be the one with captions."""
    vector_size: int = 0
    """Numbers in the `.npy` member `KEY.npy` of the first sample; 0 where samples have none."""
    num_samples: int = 0
    """Samples in the training split."""
    digest: str = ""
    """Identity of the training split: changes when any sample does."""
    validation_name: str = "validation"
    """Name of the held-out split in the names of its scores."""
    bucket_step: int = 0
    """Pixels of which the sides of all training images are multiples, where batches are of aspect-ratio buckets; 0: all are squares."""
    order_version: int = 1
    """Version of the function that orders samples; another version is another order."""

    @property
    def caption_hint(self) -> str:
        """The end of a sentence on captions that are not there: how to name a field of the samples' JSON that has them."""
        names = ", ".join(self.json_texts[:12])
        return f"; their JSON has texts in the fields {names}: name the one with captions by --data.caption-field" if names else ""


@dataclass(slots=True)
class Samples:
    """Decoded samples on their way into a batch, one entry a row in every field.

    `fields` holds what the shards hold by member name: "image" as uint8 arrays (H, W, C), "text" as str, "label" as int,
    "json" as dict. `failed` marks rows that could not be read: their entries are stand-ins, and they are not `valid`.
    """

    position: np.ndarray
    keys: list[str]
    fields: Mapping[str, list[Any]]
    failed: np.ndarray
    seed: int = 0
    partners: dict[str, Samples] = field(default_factory=dict)
    """Beside each row the samples that the transform asked for, by role; see `Transform`."""
    bucket_size: tuple[int, int] | None = None
    """Width and height in pixels to which the batch's images are to be cut, those of its aspect-ratio bucket; None: squares."""
    original_sizes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """(B, 2) int64: width and height in pixels of each row's image as it is stored, upright, whatever it was decoded at; (0, 2) without images."""


class Transform(Protocol):
    """Turns decoded samples into a batch of tensors, augmented; runs in reader workers, so it is picklable and keyed by position.

    Two attributes more are optional: `fields`, names of those that it reads (else it gets all), and `partners`, roles of samples
    that it wants beside each row: "positive" and "negative" by label, "other" from a second set (`genlib.data.order.partners`).
    """

    image_size: int
    """Pixels a side the transform needs; decoders may shrink an image to no less. 0: as stored.

    In a batch of an aspect-ratio bucket (`Samples.bucket_size`) any number above 0 lets them shrink to what still covers the bucket's size.
    """

    def __call__(self, samples: Samples) -> Batch: ...


class UnreadableSample(ValueError):
    """A sample that is to be encoded cannot be read now, for a reason that may pass; the message is for the user."""


class EncodedSet(Protocol):
    """What frozen networks made of the training samples: shards of it, of which some may be missing, numbered from 0."""

    folder: Path

    @property
    def num_shards(self) -> int:
        """Shards of the whole set."""
        ...

    def missing(self) -> list[int]:
        """Shards that are absent, damaged, cut or another set's."""
        ...

    def decoded(self, shards: Sequence[int], size: int, transform: Transform | None) -> Iterator[Batch]:
        """The samples of some shards, decoded, in batches of at most `size`, one shard after the other.

        They have `failed` (B,) uint8, which goes into what is written. UnreadableSample where one cannot be read now.
        """
        ...

    def write(self, shard: int, made: Iterator[Batch]) -> None:
        """Writes a shard whole or not at all: of its samples, as many batches as it needs, with `sample` and `failed`. OSError where it cannot."""
        ...

    def trial(self, made: Sequence[Batch]) -> tuple[float, float, int]:
        """Seconds that a sample of such batches takes to write and to read, and its bytes. OSError where they cannot be written."""
        ...

    def free_bytes(self) -> int:
        """Free bytes of its disk."""
        ...

    def source(self) -> DataSource:
        """The source of the samples, with the encoded ones in the place of those that it trains on: the same order, and no other fields."""
        ...


class DataSource(Protocol):
    """Where batches come from, in an order that is a pure function of (seed, position)."""

    spec: DataSpec

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are: "train", and "validation" where samples are held out."""
        ...

    def num_samples(self, split: str) -> int:
        """Usable samples in a split that there is."""
        ...

    def batches(
        self,
        split: str,
        size: int,
        *,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        start: int = 0,
        transform: Transform | None = None,
    ) -> Iterator[Batch]:
        """Yields this rank's slice of the global micro-batches of `size` samples, from global sample count `start` on.

        Split "train" goes on for ever; any other is one pass in stored order. Every rank's slice has ceil(size / world) rows;
        rows past the end are placeholders, not `valid`. World size never enters the order.
        """
        ...

    def captions(self, split: str, limit: int) -> Iterator[str]:
        """Captions of the first `limit` samples in stored order."""
        ...

    def keys(self, split: str, positions: Sequence[int], size: int, *, seed: int = 0) -> list[str]:
        """Names `shard:key` of the samples at global positions of global micro-batches of `size` samples, for messages."""
        ...

    def encoded_set(self, identity: str, folder: str = "") -> EncodedSet | None:
        """The training samples as networks of that identity encode them, in a folder of this name in `folder`, by default GENLIB_CACHE/encoded.

        None where samples have no numbers by which to keep them.
        """
        ...
