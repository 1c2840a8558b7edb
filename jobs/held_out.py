"""What a run keeps of its held-out samples, for its cards and for the server's page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from genlib.data.transforms.plain import PlainTransform, pad_sequences
from genlib.sharing.card import CARD_FOLDER
from genlib.sharing.formats import INPUT
from genlib.sharing.held_out import write_held_out
from genlib.task import Task
from genlib.types import Batch, DataSource, Samples
from jobs.run_folder import read_json, write_json

_TEXTS = 4
"""On a card."""
_PLACES, _RUN = 8, 30
"""For the server: from how many places of the split, which may be sorted, and how many samples from each."""
_SIDE = 256
"""Pixels a side of a larger model's samples."""


def note_examples(task: Task, source: DataSource, results: Path) -> None:
    """Keeps what is shown of the held-out data: on cards the first image that has a size, and captions or classes, its own first; by the
    server some samples with their words.
    """
    folder, side = results / CARD_FOLDER, task.sizes(source.spec).side
    settings = read_json(folder / "settings.json") or {}
    names = list(islice(source.captions("validation", _TEXTS), _TEXTS)) if source.spec.has_captions else list(source.spec.class_names[:_TEXTS])
    write_json(folder / "settings.json", {**settings, "captions": list(dict.fromkeys(names))})
    if side and (pixels := first_image(source, side)) is not None:
        Image.fromarray(pixels).save(folder / INPUT)
        write_held_out(folder, held_out_samples(source, min(side, _SIDE)))


def held_out_samples(source: DataSource, side: int) -> Iterator[tuple[str, np.ndarray]]:
    """Words and images of a few hundred held-out samples, runs of them from all over the split, which may be sorted."""
    if "validation" not in source.splits:
        return
    count, names = source.num_samples("validation"), source.spec.class_names
    transform, places = ImagesAndWords(side, source.spec.has_captions), min(_PLACES, -(-count // _RUN))
    for place in range(places):
        batch = next(source.batches("validation", _RUN, start=place * max(_RUN, count // places), transform=transform))
        if "image" not in batch or batch["image"].shape[1] not in (1, 3):
            return
        labels = batch.get("label", torch.full((_RUN,), -1)).tolist()
        rows = zip(batch["image"], batch["words"].tolist(), labels, batch["valid"].tolist(), strict=True)
        for image, words, label, valid in rows:
            if valid:
                yield bytes(words).rstrip(b"\0").decode() or (names[label] if 0 <= label < len(names) else ""), pixels_of(image)


class ImagesAndWords(PlainTransform):
    """`image` and `label` as ever, and captions as UTF-8 with zeros behind the shorter ones, `words` (B, L) uint8."""

    def __init__(self, side: int, captions: bool):
        super().__init__(side)
        self.fields = ("image", "text") if captions else ("image", "label", "json")

    def __call__(self, samples: Samples) -> Batch:
        """See `Transform`."""
        # JSON can hold half a pair of surrogates, which is no text in UTF-8
        texts = [np.frombuffer(text.encode(errors="replace"), np.uint8) for text in samples.fields.get("text", [""] * len(samples.keys))]
        return {**super().__call__(samples), "words": pad_sequences(texts)[0]}


def first_image(source: DataSource, side: int) -> np.ndarray | None:
    """The first held-out image, or where there are none the first one of training; uint8 (side, side) or (side, side, 3)."""
    transform = PlainTransform(side)
    transform.fields = ("image",)  # labels and captions are not read
    for split in ("validation", "train"):
        if (batch := next(iter(source.batches(split, 1, transform=transform)), None)) is not None:
            if "image" not in batch:
                return None
            return pixels_of(batch["image"][0])
    return None


def pixels_of(image: torch.Tensor) -> np.ndarray:
    """(1, H, W) or (3, H, W) in [0, 1] -> uint8 (H, W) or (H, W, 3)."""
    pixels = (image.permute(1, 2, 0).clamp(0, 1) * 255 + 0.5).byte().numpy()
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
