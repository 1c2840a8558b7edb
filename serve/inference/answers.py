"""Results as each endpoint says them: a document, and the pictures that go into its `data`, bytes until the response is written."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from serve.backend import Result
from serve.inference.request import InferenceRequest, png_as_text


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answers. Picture i belongs into `document["data"][i]`."""

    document: dict[str, Any]
    images: list[bytes] = field(default_factory=list)

    def with_images(self) -> dict[str, Any]:
        """The document with its pictures as base64."""
        return self._filled([{"b64_json": png_as_text(image)} for image in self.images])

    def with_addresses(self, addresses: Sequence[str]) -> dict[str, Any]:
        """The document with where its pictures are."""
        return self._filled([{"url": address} for address in addresses])

    def _filled(self, places: list[dict[str, str]]) -> dict[str, Any]:
        if not self.images:
            return self.document
        rows = [{**place, **row} for place, row in zip(places, self.document["data"], strict=True)]
        return {**self.document, "data": rows}


def images(work: InferenceRequest, results: list[Result]) -> Answer:
    """Of everything that makes pictures."""
    (result, *_) = results
    rows: list[dict[str, Any]] = [{"index": number} for number in range(len(result.images))]
    if work.seeds:
        for number, row in enumerate(rows):
            row["seed"] = work.seeds[number // result.per_row]
    size = {"size": size_of(result.images[0])} if result.images else {}
    document = {"created": int(time.time()), "model": work.model, "output_format": "png", "background": "opaque", **size, "data": rows}
    return Answer(document, result.images)


def reconstructions(work: InferenceRequest, results: list[Result]) -> Answer:
    """Pictures, and how far each is from what was given: its mean squared error, and the model's own score of how strange it is, if it has one."""
    answer = images(work, results)
    given = work.calls[0].arguments["image"]
    errors = [float(np.square(_numbers(png) - original / np.float32(255)).mean()) for png, original in zip(answer.images, given, strict=True)]
    own = results[1].numbers if len(results) > 1 else None
    scores = errors if own is None else [float(score) for score in own.reshape(len(errors), -1).mean(1)]
    rows = [{**row, "error": error, "anomaly_score": score} for row, error, score in zip(answer.document["data"], errors, scores, strict=True)]
    return Answer({**answer.document, "data": rows}, answer.images)


def embeddings(work: InferenceRequest, results: list[Result]) -> Answer:
    """Vectors in the order of the inputs, whichever calls they came from."""
    vectors: dict[int, np.ndarray] = {}
    for places, result in zip(work.note["places"], results, strict=True):
        assert result.numbers is not None
        vectors.update(zip(places, result.numbers.reshape(len(places), -1).astype("<f4"), strict=True))
    rows = [{"object": "embedding", "index": at, "embedding": _vector(vectors[at], work.note["base64"])} for at in sorted(vectors)]
    tokens = sum(result.tokens for result in results)
    return Answer({"object": "list", "model": work.model, "data": rows, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


def classifications(work: InferenceRequest, results: list[Result]) -> Answer:
    """Labels of each picture, the likeliest first."""
    rows: dict[int, dict[str, Any]] = {}
    names, top = work.note["labels"], work.note["top"]
    for places, result in zip(work.note["places"], results, strict=True):
        assert result.numbers is not None
        for at, scores in zip(places, result.numbers, strict=True):
            best = np.argsort(-scores, kind="stable")[: top or None]
            labels = [{"label": names[one] if one < len(names) else str(one), "score": float(scores[one])} for one in best]
            rows[at] = {"object": "classification", "index": at, "labels": labels}
    return Answer({"object": "list", "model": work.model, "data": [rows[at] for at in sorted(rows)]})


def action(work: InferenceRequest, results: list[Result]) -> Answer:
    """Whatever an action gave."""
    (result,) = results
    document = {"object": "action.result", "model": work.model, "action": work.calls[0].action}
    if result.numbers is not None:
        plain = _plain(result.numbers)
        return Answer({**document, "shape": list(result.numbers.shape), "numbers": plain})
    answer = images(work, results)
    return Answer({**answer.document, **document, "per_row": result.per_row}, answer.images)


ANSWERS: dict[str, Callable[[InferenceRequest, list[Result]], Answer]] = {
    "images.generations": images,
    "images.edits": images,
    "images.variations": images,
    "images.translations": images,
    "images.reconstructions": reconstructions,
    "embeddings": embeddings,
    "classifications": classifications,
    "actions": action,
}
"""By endpoint."""


def answer_of(work: InferenceRequest, results: list[Result]) -> Answer:
    """What the work's endpoint answers."""
    return ANSWERS[work.endpoint](work, results)


def size_of(png: bytes) -> str:
    """WIDTHxHEIGHT of a picture, from its header."""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return f"{width}x{height}"


def _numbers(png: bytes) -> np.ndarray:
    """float32 (C, H, W) in [0, 1] of a PNG of our own."""
    pixels = np.asarray(Image.open(io.BytesIO(png), formats=("PNG",)), np.float32) / 255
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _vector(vector: np.ndarray, encoded: bool) -> Any:
    return base64.b64encode(vector.tobytes()).decode("ascii") if encoded else vector.tolist()


def _plain(numbers: np.ndarray) -> Any:
    """Nested lists; null for what JSON has no word for."""
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        plain = numbers.astype(object)
        plain[~np.isfinite(numbers)] = None
        return plain.tolist()
    return numbers.tolist()
