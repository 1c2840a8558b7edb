"""Lists of numbers as text are the array that a parser and numpy would make of them, or refused where these would differ."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from serve.parsing.number_lists import NotRectangular, read

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)


@given(arrays(object, array_shapes(max_dims=6, max_side=2) | array_shapes(max_dims=2, max_side=5), elements=NUMBERS), st.sampled_from([None, 0, 1]))
def test_numbers_of_any_shape(array: np.ndarray, indent: int | None) -> None:
    found = read(json.dumps(array.tolist(), indent=indent).encode())
    assert found.dtype == np.float32
    assert np.array_equal(found, array.astype(np.float32))


@given(arrays(np.int64, array_shapes(max_dims=3, max_side=3), elements=st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200)))
def test_whole_numbers_stay_exact_in_as_few_bytes_as_hold_them(array: np.ndarray) -> None:
    found = read(json.dumps(array.tolist()).encode(), whole=True)
    assert found.dtype.kind == "i"
    assert np.array_equal(found, array)
    assert found.itemsize == max(
        np.min_scalar_type(one - (one > 0) if one < 0 else -one - 1).itemsize for one in (int(array.min()), int(array.max()))
    )


RAGGED: Any = st.recursive(NUMBERS | st.sampled_from([None, True, "1", {}]), lambda inner: st.lists(inner, max_size=3), max_leaves=8)


@given(st.lists(RAGGED, max_size=3))
def test_any_list_is_what_numpy_makes_of_it_or_refused(value: list[Any]) -> None:
    try:
        wanted = np.array(value)
    except ValueError:
        wanted = np.array(None)
    good = wanted.dtype.kind in "if" and wanted.size and wanted.ndim <= 6 and "tru" not in json.dumps(value)
    try:
        assert np.array_equal(read(json.dumps(value).encode()), wanted.astype(np.float32))
        assert good
    except NotRectangular:
        assert not good


@given(st.text("[]0123456789.,-+eE \n", max_size=30).map(lambda text: f"[{text}]"))
def test_only_what_is_json_is_read(text: str) -> None:
    try:
        found = read(text.encode())
    except NotRectangular:
        return
    with np.errstate(over="ignore"):
        assert np.array_equal(found, np.array(json.loads(text)).astype(np.float32))


@pytest.mark.parametrize(
    "text",
    ["[1[2,3],[4,5]]", "[[1,2]5,[3,4]]", "[5[],[6]]", "[[1],2]", "[[1],[2]", "[1]]", "[01]", "[1.]", "[.5]", "[+1]", "[1 2]", "[1,,2]", "[1,]",
     "[,1]", "[]", "[[]]", "[-]", "[1e]", "[NaN]", "[[[[[[[1]]]]]]]", "1", "", "[1],[2]", "[[1],[2]],[3]"],
)  # fmt: skip
def test_what_is_no_array_is_refused(text: str) -> None:
    for whole in (False, True):
        with pytest.raises(NotRectangular):
            read(text.encode(), whole=whole)


def test_what_is_not_whole_is_no_whole_number() -> None:
    assert read(b"[1, 2.0, 3e2]", whole=True).tolist() == [1, 2, 300]
    for text in (b"[1.5]", b"[9223372036854775808]", b"[1e30]", b"[1e999]", b"[" + b"9" * 400 + b"]"):
        with pytest.raises(NotRectangular):
            read(text, whole=True)


@pytest.mark.parametrize("text", [b"[1e400]", b"[1e39]", b"[" + b"9" * 400 + b"]"])
def test_what_is_too_large_is_infinite(text: bytes) -> None:
    assert np.isinf(read(text)).all()


@pytest.mark.parametrize(("entry", "whole"), [(b"1", False), (b"1", True), (b"[1]", False), (b"[1,2,3,4,5,6,7,8]", False), (b"-0.25", False)])
def test_memory_and_time_are_those_of_the_text(entry: bytes, whole: bool) -> None:
    text = b"[" + (entry + b",") * (1_000_000 // (len(entry) + 1)) + entry + b"]"
    tracemalloc.start()
    read(text, whole=whole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    began = time.thread_time()
    read(text, whole=whole)
    assert time.thread_time() - began < 0.3
    assert peak < 5 * len(text)
