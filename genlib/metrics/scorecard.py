"""Scorecards: a score with all that it depends on, and a refusal to compare unlike ones.

A FID of another network, resize or number of pictures is another quantity (Parmar et al. 2022, arXiv:2104.11222).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from genlib.config import Config, from_json, to_json
from genlib.json_text import json_text

MEASURED = ("value", "generator", "sampler", "seed")
"""Fields that tell what was measured; in any other, two scores to be compared are alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorecard(Config):
    """One score and how it was measured."""

    score: str
    """What: fid, kid, is, precision, recall, clip_score, clip_score_shuffled."""
    value: float
    network: str
    """The feature network's name."""
    network_sha256: str
    """sha256 of the file with its weights."""
    resize: str
    """How pictures reach the network's size."""
    image_size: int
    """Pixels a side of the pictures before that; real ones were brought to this size first."""
    n_generated: int
    n_reference: int
    """Real pictures; 0 where the score needs none."""
    reference: str
    """The split that the real pictures are of; empty where the score needs none."""
    reference_digest: str
    """sha256 over their pixels."""
    conditions_digest: str
    """sha256 over the captions, or the names of the labels, that the pictures were asked for by; empty where by none."""
    dtype: str
    """Type of the features, and of the sums over them."""
    method: dict[str, Any] = field(default_factory=dict)
    """Constants of the score itself: subsets, splits, k."""
    generator: str
    """Checkpoint that made the pictures."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """What `generate` was called with beside seeds and conditions."""
    seed: int
    """Seed of the first picture; the others follow."""


def compare(a: Scorecard, b: Scorecard) -> float:
    """`a.value - b.value`. ValueError naming the first thing in which the two were not measured alike."""
    for name in (f.name for f in fields(Scorecard) if f.name not in MEASURED):
        mine, other = getattr(a, name), getattr(b, name)
        if mine != other:
            raise ValueError(
                f"the scores cannot be compared: {name} is {_short(mine)} for {a.generator} and {_short(other)} for {b.generator}; "
                "measure one again in the way of the other"
            )
    return a.value - b.value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def save(path: Path, cards: Sequence[Scorecard]) -> None:
    """Writes them as JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json_text([to_json(card) for card in cards], indent=1) + "\n")
    os.replace(partial, path)


def add(path: Path, cards: Sequence[Scorecard]) -> None:
    """Adds to the file's, in place of those of the same measurement."""
    new = [replace(card, value=0.0) for card in cards]
    old = [card for card in load(path) if replace(card, value=0.0) not in new] if path.exists() else []
    save(path, [*old, *cards])


def load(path: Path) -> list[Scorecard]:
    """The inverse of `save`. ValueError where the file holds something else."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no scorecards: it cannot be read as JSON ({type(error).__name__})") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"{path} holds no scorecards: it is no list of objects")
    return [from_json(Scorecard, value) for value in values]
