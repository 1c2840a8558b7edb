"""Scorecards come back as they were written, and only like ones are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from genlib.metrics import scorecard
from genlib.metrics.scorecard import Scorecard, compare

CARD = Scorecard(
    score="fid", value=12.5, network="inception-6726825d", network_sha256="6726825d" + 56 * "0", resize="TensorFlow 1's bilinear, to 299 pixels",
    image_size=32, n_generated=1000, n_reference=1402, reference="validation", reference_digest=64 * "a", conditions_digest="",
    dtype="features float32, sums float64",
    generator="ddpm_tiny/train/step_00001000-1a2b3c4d", sampler={"steps": 20, "guidance_scale": 3.0}, seed=0,
)  # fmt: skip


def test_like_scores_are_compared() -> None:
    """Of another checkpoint, other sampler settings and other seeds: that is what one compares."""
    other = replace(CARD, value=10.0, generator="ddpm_tiny/train/step_00002000-5e6f7a8b", sampler={"steps": 50}, seed=1000)
    assert compare(CARD, other) == 2.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score", "kid"), ("network", "clip_tiny-1a2b3c4d"), ("network_sha256", 64 * "b"), ("resize", "bicubic, antialiased, to 64 pixels"),
        ("image_size", 64), ("n_generated", 50_000), ("n_reference", 1401), ("reference", "train"), ("reference_digest", 64 * "b"),
        ("conditions_digest", 64 * "c"), ("dtype", "float16"), ("method", {"k": 5}),
    ],
)  # fmt: skip
def test_unlike_scores_are_refused_by_what_differs(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"the scores cannot be compared: {field} is .* measure one again") as refusal:
        compare(CARD, replace(CARD, **{field: value}))
    assert "\n" not in str(refusal.value)


def test_written_and_read(tmp_path: Path) -> None:
    cards = [CARD, replace(CARD, score="kid", method={"subsets": 100})]
    scorecard.save(tmp_path / "scores.json", cards)
    assert scorecard.load(tmp_path / "scores.json") == cards


def test_a_score_measured_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    scorecard.add(path, [CARD])
    other = replace(CARD, sampler={"steps": 50}, value=9.0)
    scorecard.add(path, [replace(CARD, value=12.6), other])
    assert scorecard.load(path) == [replace(CARD, value=12.6), other]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"score": "fid"}]', '[{"pickle": 1}]'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"holds no scorecards|Scorecard\."):
        scorecard.load(path)
