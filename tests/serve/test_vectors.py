"""Embeddings and classes over HTTP are what the models give."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from serve.models.pool import ModelPool
from tests.serve.models import picture, png, post, run, uri

EMBED, CLASSIFY = "/v1/embeddings", "/v1/classifications"


def test_texts_and_pictures_of_any_sizes_come_in_their_order(local: ModelPool) -> None:
    inputs = ["a red circle", uri(png(picture(32))), "a cat", uri(png(picture(50, seed=1))), uri(png(picture(32, seed=2)))]
    rows = post(local, EMBED, {"model": "clip_tiny", "input": inputs}).json()["data"]
    assert [row["index"] for row in rows] == list(range(5))
    for row, one in zip(rows, inputs, strict=True):
        (alone,) = post(local, EMBED, {"model": "clip_tiny", "input": one}).json()["data"]
        assert np.allclose(row["embedding"], alone["embedding"], atol=1e-5)
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-4)
    text = run(local.run("clip_tiny", "embed_text", {"text": ["a cat"]})).numbers
    assert text is not None
    assert np.allclose(rows[2]["embedding"], text[0], atol=1e-6)


def test_a_picture_is_no_words_however_it_is_written(local: ModelPool) -> None:
    """jina-ai/clip-as-service#1019; one that is longer than words may be, too."""
    for file in (png(picture(32)), png(picture(200))):
        plain = base64.b64encode(file).decode()
        forms = [uri(file), f"data:;base64,{plain}", f"DATA:IMAGE/PNG;BASE64,{plain}", plain]
        rows = post(local, EMBED, {"model": "clip_tiny", "input": forms}).json()["data"]
        assert all(np.allclose(row["embedding"], rows[0]["embedding"], atol=1e-6) for row in rows)
    for text, said in (
        (f"a {plain}", "over 4000 characters that is neither base64"),
        (f"data:image/png,{plain}", "without ;base64"),
        ("https://example.org/a.png", "an address"),
    ):
        problem = post(local, EMBED, {"model": "clip_tiny", "input": ["a cat", text]})
        assert (problem.status_code, problem.json()["error"]["param"]) == (400, "input")
        assert said in problem.json()["error"]["message"]
    problem = post(local, EMBED, {"model": "clip_tiny", "input": ["a cat", plain, plain[:-3]]}).json()["error"]
    assert problem["message"].startswith("input[2] is neither base64 nor a data URI")


def test_base64_is_the_same_numbers(local: ModelPool) -> None:
    plain, packed = (post(local, EMBED, {"input": "a cat", "encoding_format": form}).json()["data"][0]["embedding"] for form in ("float", "base64"))
    assert np.array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), np.float32(plain))


def test_labels_of_ones_own_best_first(local: ModelPool) -> None:
    body = {"image": [uri(png(picture(32))), uri(png(picture(20, seed=3)))], "labels": ["a red circle", "a cat", "nothing"]}
    rows = post(local, CLASSIFY, body).json()["data"]
    for row in rows:
        scores = [label["score"] for label in row["labels"]]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-4)
        assert {label["label"] for label in row["labels"]} == set(body["labels"])
    top = post(local, CLASSIFY, {**body, "top": 1}).json()["data"]
    assert [row["labels"] for row in top] == [row["labels"][:1] for row in rows]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBED, {}), (EMBED, {"input": []}), (EMBED, {"input": [""]}), (EMBED, {"input": [1, 2]}), (EMBED, {"input": "x", "encoding_format": "int8"}),
        (EMBED, {"input": "x" * 5000}), (EMBED, {"input": "data:image/png;base64,AAAA"}), (EMBED, {"input": ["x"] * 257}),
        (CLASSIFY, {"image": "data:image/png;base64,AAAA", "labels": ["a"]}), (CLASSIFY, {"image": uri(png(picture())), "labels": []}),
        (CLASSIFY, {"image": uri(png(picture()))}),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(local: ModelPool, path: str, body: dict) -> None:
    assert post(local, path, body).status_code == 400


def test_a_model_that_cannot_is_named_as_such(local: ModelPool) -> None:
    assert post(local, EMBED, {"model": "vae", "input": "words"}).status_code == 404
    assert post(local, EMBED, {"model": "vae", "input": uri(png(picture(8)))}).status_code == 200
    assert post(local, CLASSIFY, {"model": "vae", "image": uri(png(picture(8)))}).status_code == 404


def test_vectors_are_not_cut_short_by_models_that_were_not_trained_so(local: ModelPool) -> None:
    response = post(local, EMBED, {"model": "clip_tiny", "input": "a cat", "dimensions": 4})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "dimensions")
    assert post(local, EMBED, {"model": "clip_tiny", "input": "a cat", "dimensions": None}).status_code == 200
