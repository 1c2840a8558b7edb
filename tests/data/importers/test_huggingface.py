"""Hugging Face data sets: what is asked of the library beside its documented functions."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import pytest

from genlib.data.importers import huggingface

datasets = pytest.importorskip("datasets")
PINNED = "5.2.0"


def test_a_set_has_a_fingerprint_that_follows_its_content() -> None:
    """`_fingerprint` has no public name; without it an interrupted conversion could go on with another set of the same length."""
    assert version("datasets") == PINNED, "see that a data set still has _fingerprint, then set PINNED to the new release"
    one, again, other = (datasets.Dataset.from_dict({"a": values}) for values in ([1, 2], [1, 2], [1, 3]))
    assert huggingface._state(one, streaming=False) == huggingface._state(again, streaming=False)
    assert huggingface._state(one, streaming=False) != huggingface._state(other, streaming=False)


def rows() -> Iterator[dict[str, object]]:
    from PIL import Image

    yield from ({"picture": Image.fromarray(np.full((8, 8, 3), n, np.uint8)), "words": f"number {n}"} for n in range(9))


def test_columns_of_a_stream_that_names_none_are_inferred_from_its_first_rows() -> None:
    stream = datasets.IterableDataset.from_generator(rows)
    assert stream.features is None
    features = huggingface._features(stream)
    assert list(features) == ["picture", "words"]
    assert isinstance(features["picture"], datasets.Image)
