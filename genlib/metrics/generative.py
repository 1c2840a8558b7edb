"""Scores of whatever makes pictures: generates them, looks at them and at real ones through feature networks, and writes scorecards.

Every rank makes and reads its share; what is summed up does not depend on who made what.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genlib import distributed
from genlib.metrics import clip_score as clip
from genlib.metrics.conditions import Conditions, drawing
from genlib.metrics.features import FeatureNetwork, made_of
from genlib.metrics.fid import Moments, frechet_distance
from genlib.metrics.inception_score import InceptionScore
from genlib.metrics.kid import kid
from genlib.metrics.precision_recall import precision_recall
from genlib.metrics.rows import NumberedRows
from genlib.metrics.scorecard import Scorecard
from genlib.task import Task
from genlib.types import Batch

KID_SUBSETS, KID_SUBSET_SIZE, SPLITS, NEIGHBOURS = 100, 1000, 10, 3
"""Values of the papers on KID, Inception Score, and precision and recall."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What is asked for."""

    generator: str
    """Name of what makes the pictures, for scorecards."""
    conditions: Conditions
    """One entry a picture, on every rank the same; at least one a rank."""
    reference: str = "validation"
    """Name of the real pictures."""
    batch: int = 64
    """Pictures at a time on a rank."""
    seed: int = 0
    """Seed of the first picture; the others follow."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `generate`."""


@dataclass(slots=True)
class Seen:
    """What one network sees in a stream of pictures."""

    network: FeatureNetwork
    rows: NumberedRows = field(default_factory=NumberedRows)
    moments: Moments | None = None
    classes: InceptionScore | None = None

    def add(self, numbers: Tensor, pixels: Tensor) -> None:
        """Takes in pictures uint8 (B, C, H, W) by number (B,) int64."""
        features, logits = self.network(pixels)
        self.rows.add(numbers, {"features": features})
        if self.moments is None:
            self.moments = Moments(features.shape[1], features.device)
        self.moments.add(features)
        if logits is not None:
            self.classes = self.classes or InceptionScore(logits.shape[1], splits=SPLITS, device=logits.device)
            self.classes.add(numbers, logits)

    def features(self) -> Tensor:
        """Features of all ranks' pictures, in the order of their numbers (N, D), on the network's device."""
        return self.rows.over_ranks(self.network.device)["features"].to(self.network.device)

    def summed(self) -> Moments:
        """Moments over all ranks."""
        assert self.moments is not None, "every rank sees at least one picture"
        return self.moments.over_ranks()


@dataclass(slots=True)
class Outcome:
    """Scores, and some pictures to look at."""

    cards: list[Scorecard]
    pictures: Tensor
    """uint8 (P, C, H, W), this rank's share of the pictures to show."""
    captions: list[str]

    def metrics(self) -> dict[str, float]:
        """Flat, by score and network: `fid_clip_tiny-1a2b3c4d`."""
        return {f"{card.score}_{card.network}": card.value for card in self.cards}


@torch.no_grad()
def measure(
    task: Task,
    asked: Measurement,
    real: Callable[[int], Iterable[Batch]],
    *,
    networks: Sequence[FeatureNetwork] = (),
    text_network: FeatureNetwork | None = None,
    shown: int = 64,
    on_pictures: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Makes the pictures and scores them. All ranks call it, and get the same scores.

    `real(side)` gives this rank's batches of real pictures, in [0, 1] and of `side` pixels, once through. FID, KID, precision, recall and,
    where the network names classes, the inception score are by each of `networks`; CLIP scores by `text_network`. `on_pictures` hears
    of the number made. ValueError where pictures, networks and captions do not fit each other.
    """
    _check_measurable(asked.conditions.captions, bool(networks), text_network is not None)
    fakes, texts = [Seen(network) for network in networks], Seen(text_network) if text_network else None
    looked, kept, side = [*fakes, *([texts] if texts else [])], _Kept(len(asked.conditions.captions), shown), 0
    for numbers, pixels in generated(task, asked):
        side = pixels.shape[-1]
        for seen in looked:
            seen.add(numbers, pixels)
        kept.add(numbers, pixels)
        on_pictures(kept.count, len(asked.conditions.captions))
    cards: list[Scorecard] = []
    if fakes:
        reals, digest = _look(real(side), networks)
        for fake, true in zip(fakes, reals, strict=True):
            cards += against_real(fake, true, _Blank(asked, side, digest))
    if texts:
        cards += against_captions(texts, _Blank(asked, side))
    return Outcome(cards, kept.pictures, [asked.conditions.captions[number] for number in kept.numbers])


def _check_measurable(captions: Sequence[str], against_real: bool, against_captions: bool) -> None:
    """Before hours of work: ValueError where there will be no score."""
    if against_real and len(captions) <= NEIGHBOURS:
        raise ValueError(f"precision and recall need more than {NEIGHBOURS} pictures, {len(captions)} are asked for; ask for more with --samples")
    if against_captions and len(set(captions)) < 2:
        raise ValueError("a CLIP score is of pictures made by different captions or labels, and these are not; leave --clip out, or ask for more")


def generated(task: Task, asked: Measurement) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's pictures: numbers (B,) int64 and 8-bit pixels (B, C, H, W), batch by batch. ValueError where they are not finite."""
    seeded = drawing(task).named("seeds") or "seed"
    mine = range(distributed.rank(), len(asked.conditions.captions), distributed.world_size())
    for low in range(0, len(mine), asked.batch):
        numbers = mine[low : low + asked.batch]
        seeds = [asked.seed + number for number in numbers]
        image = task.generate(**{seeded: seeds}, **asked.conditions.rows(numbers), **asked.sampler)  # type: ignore[operator]
        if not image.isfinite().all():
            raise ValueError(f"{asked.generator} made pictures with values that are not finite, so they have no score; look at its training")
        yield torch.tensor(numbers), to_pixels(image).cpu()


def to_pixels(image: Tensor) -> Tensor:
    """[0, 1] to 8 bits, as pictures are stored: real ones come from files, so that both are seen alike."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _look(real: Iterable[Batch], networks: Sequence[FeatureNetwork]) -> tuple[list[Seen], str]:
    """What the networks see in real pictures, and the digest of these."""
    seens, digests = [Seen(network) for network in networks], NumberedRows()
    for batch in real:
        valid = batch["valid"]
        if valid.any():
            pixels, numbers = to_pixels(batch["image"][valid]), batch["position"][valid]
            digests.add(numbers, {"digest": torch.tensor([_short_digest(picture) for picture in pixels])})
            for seen in seens:
                seen.add(numbers, pixels)
    if not seens[0].moments:
        raise ValueError("there are no real pictures to compare with; name others with --data.validation, or take --split train")
    every = digests.over_ranks(seens[0].network.device)["digest"]
    return seens, _digest([every.sort().values.numpy().tobytes()])


def _short_digest(pixels: Tensor) -> int:
    return int.from_bytes(hashlib.sha256(pixels.contiguous().numpy().tobytes()).digest()[:8], "little", signed=True)


def _digest(parts: Iterable[bytes]) -> str:
    """sha256 of the parts' own."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


@dataclass(frozen=True, slots=True)
class _Blank:
    """What the scorecards of one measurement share."""

    asked: Measurement
    side: int
    digest: str = ""
    """sha256 over the real pictures."""

    def card(self, score: str, value: float, network: FeatureNetwork, references: int, method: dict[str, Any]) -> Scorecard:
        asked, captions = self.asked, self.asked.conditions.captions
        if not math.isfinite(value):
            raise ValueError(f"the score {score} by {network.name} is {value}, which tells nothing; look at that network's training")
        reference, digest = (asked.reference, self.digest) if references else ("", "")
        conditions = _digest(caption.encode() for caption in captions) if any(captions) else ""
        return Scorecard(
            score=score, value=value, network=network.name, network_sha256=network.sha256, resize=network.resize, image_size=self.side,
            n_generated=len(captions), n_reference=references, reference=reference, reference_digest=digest, conditions_digest=conditions,
            dtype="features float32, sums float64", method=method, generator=asked.generator, sampler=dict(asked.sampler), seed=asked.seed,
        )  # fmt: skip


def against_real(fake: Seen, true: Seen, blank: _Blank) -> list[Scorecard]:
    """FID, KID, precision, recall, and the inception score where the network names classes."""
    fake_rows, true_rows, network = fake.features(), true.features(), fake.network
    kid_method = {"subsets": KID_SUBSETS, "subset_size": min(KID_SUBSET_SIZE, len(fake_rows), len(true_rows)), "seed": 0}
    distance, _ = kid(true_rows, fake_rows, subsets=KID_SUBSETS, subset_size=KID_SUBSET_SIZE, seed=0)
    precision, recall = precision_recall(true_rows, fake_rows, k=NEIGHBOURS)
    neighbours, count = {"k": NEIGHBOURS}, len(true_rows)
    cards = [
        blank.card("fid", frechet_distance(true.summed(), fake.summed()), network, count, {}),
        blank.card("kid", distance, network, count, kid_method),
        blank.card("precision", precision, network, count, neighbours),
        blank.card("recall", recall, network, count, neighbours),
    ]
    if fake.classes is not None:
        cards.append(blank.card("is", fake.classes.over_ranks().score()[0], network, 0, {"splits": SPLITS}))
    return cards


def against_captions(seen: Seen, blank: _Blank) -> list[Scorecard]:
    """The CLIP score, and the same with captions shuffled."""
    captions, network, task = blank.asked.conditions.captions, seen.network, seen.network.task
    distinct = list(dict.fromkeys(captions))
    image, place = seen.features(), {caption: number for number, caption in enumerate(distinct)}
    read = None if task is None else made_of(task, "texts", "features")
    assert read is not None, "`load_clip` refuses others"
    text = read(distinct)[[place[caption] for caption in captions]]
    scores = {"clip_score": clip.clip_score(image, text), "clip_score_shuffled": clip.shuffled_clip_score(image, text, captions)}
    return [blank.card(name, value, network, 0, {"scale": 100, "clamped": "mean"}) for name, value in scores.items()]


class _Kept:
    """Some pictures, spread over all, of those that this rank makes."""

    def __init__(self, total: int, shown: int) -> None:
        self.wanted = {number * total // min(shown, total) for number in range(min(shown, total))}
        self.numbers: list[int] = []
        self.count, self._parts = 0, []

    def add(self, numbers: Tensor, pixels: Tensor) -> None:
        chosen = [row for row, number in enumerate(numbers.tolist()) if number in self.wanted]
        self.numbers += numbers[chosen].tolist()
        self._parts.append(pixels[chosen])
        self.count += len(numbers)

    @property
    def pictures(self) -> Tensor:
        return torch.cat(self._parts)
