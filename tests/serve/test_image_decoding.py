"""Pictures that come in: upright, cut in the middle, on white where there is nothing, and never larger than they say."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genlib.actions import Action, Input
from genlib.ports import PORTS, Sizes
from serve.api_error import ApiError
from serve.limits import Limits, check_action, check_cost, rows_of
from serve.parsing.image_decoding import array_of, fitted, pixels_of, tensor_of, transparent, with_channels
from serve.parsing.json_fields import Value
from tests.serve.models import picture, png, uri

LIMITS = Limits()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(orientation: int) -> None:
    original = Image.fromarray(np.kron(picture(4), np.ones((16, 24, 1), np.uint8)))
    exif = Image.Exif()
    exif[274] = orientation
    stored = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # how it was turned before it was stored
    buffer = io.BytesIO()
    (original if stored is None else original.transpose(Image.Transpose(stored))).save(buffer, "JPEG", quality=95, exif=exif)
    found = pixels_of(buffer.getvalue(), LIMITS, "image")
    assert found.shape == (64, 96, 3)
    assert np.abs(found.astype(int) - np.asarray(original).astype(int)).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_lies_on_white_and_is_told(kind: str) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, lossless=True, exact=True)
    found = pixels_of(buffer.getvalue(), LIMITS, "image")
    assert with_channels(found, 3)[:2].max() == 0
    assert with_channels(found, 1)[2:].min() == 255
    empty = transparent(found)
    assert empty is not None
    assert empty.tolist() == [[0] * 4] * 2 + [[1] * 4] * 2
    assert transparent(picture(4)) is None


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70))
def test_a_picture_is_cut_in_its_middle_to_any_size(rows: int, columns: int, width: int, height: int) -> None:
    found = fitted(np.full((rows, columns, 3), 90, np.uint8), width, height)
    assert found.shape == (height, width, 3)
    assert (found == 90).all()


def test_the_middle_is_kept() -> None:
    wide = np.zeros((8, 24, 1), np.uint8)
    wide[:, 8:16] = 200
    assert (fitted(wide, 8, 8) == 200).all()


@given(st.binary(max_size=200))
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    for content in (data, b"\x89PNG\r\n\x1a\n" + data, b"\xff\xd8\xff" + data, b"RIFF\x00\x00\x00\x00WEBP" + data):
        with pytest.raises(ApiError) as refused:
            pixels_of(content, LIMITS, "image")
        assert refused.value.status == 400


def given_as(value: Any) -> Value:
    """A value as it stands in a body."""
    content = json.dumps(value).encode()
    return Value(content, 0, len(content))


def test_lists_of_numbers_and_of_pictures() -> None:
    assert tensor_of(given_as([[1, 2], [3, 4]]), "code", PORTS["code"], 3, LIMITS).dtype == np.float32
    codes = tensor_of(given_as([[1, 2], [3, 2**40]]), "codes", PORTS["codes"], 3, LIMITS)
    assert (codes.dtype, codes.tolist()) == (np.int64, [[1, 2], [3, 2**40]])
    batch = tensor_of(given_as([uri(png(picture(8))), uri(png(picture(8, seed=1)))]), "image", PORTS["image"], 1, LIMITS)
    assert batch.shape == (2, 1, 8, 8)
    assert batch.max() == 255
    assert batch.dtype == np.uint8
    for wrong in ([[1], [2, 3]], [["a"]], [None], [1, "a"], ["a", 1], [[]], [], [float("inf")], [10**400], [[[[[[[1]]]]]]], {"a": 1}, 1, None):
        with pytest.raises(ApiError):
            tensor_of(given_as(wrong), "code", PORTS["code"], 3, LIMITS)
    with pytest.raises(ApiError, match="numbers"):
        tensor_of(given_as([0.0] * 11), "code", PORTS["code"], 3, Limits(numbers=10))


def test_pictures_are_counted_before_any_is_decoded() -> None:
    large = uri(png(np.zeros((600, 600, 1), np.uint8)))
    for limits, said in (
        (Limits(inputs=2), "more than 2 pictures"),
        (Limits(all_input_pixels=10**6), "together"),
        (Limits(input_pixels=400_000), "together"),
    ):
        with pytest.raises(ApiError, match=said):
            tensor_of(given_as([large] * 3), "image", PORTS["image"], 1, limits)


@pytest.mark.parametrize("kind", [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_codes_of_a_file_are_whole_numbers_and_no_levels_of_a_picture(kind: type) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([0, 1, np.iinfo(kind).max if kind is not np.bool_ else 1], kind))
    codes = array_of(buffer.getvalue(), "codes", LIMITS, whole=True)
    assert codes.dtype.kind == "i"
    assert codes.tolist() == np.load(io.BytesIO(buffer.getvalue())).astype(np.int64).tolist()


@pytest.mark.parametrize(("pictures", "steps", "pixels"), [(10**6, 1, 64), (1, 10**9, 64), (1, 1, 99999**2), (64, 1000, 512 * 512)])
def test_one_limit_over_pictures_steps_and_pixels(pictures: int, steps: int, pixels: int) -> None:
    with pytest.raises(ApiError) as refused:
        check_cost(LIMITS, pictures=pictures, steps=steps, pixels=pixels)
    assert refused.value.code == "limit_exceeded"
    assert check_cost(LIMITS, pictures=10, steps=100, pixels=1024 * 1024) <= LIMITS.cost


def test_the_cost_of_an_action_of_any_family() -> None:
    image = np.zeros((4, 3, 8, 8), np.float32)
    kinds = {
        "seed": "seeds", "prompt": "texts", "steps": "steps", "passes": "passes", "image": "image", "amount": "amounts", "direction": "direction",
        "first": "seed", "last": "seed", "width": "width", "height": "height",
    }  # fmt: skip
    draw = Action(name="draw", doc="", inputs={name: Input(PORTS[kind], False) for name, kind in kinds.items()}, result=PORTS["image"])
    look = replace(draw, inputs={name: one for name, one in draw.inputs.items() if name != "seed"})
    assert rows_of(draw, {"seed": [1, 2, 3], "prompt": ["a", "b", "c"], "steps": 5}) == 3
    assert rows_of(look, {"image": image, "amount": [0.0] * 9, "direction": np.zeros(32, np.float32)}) == 36
    assert rows_of(look, {"first": 3, "last": 4}) == 1
    assert check_action(LIMITS, draw, {"seed": [1, 2], "steps": 10, "passes": 3}, Sizes(side=8)) == 2 * 30 * 64
    assert check_action(LIMITS, look, {"image": image, "amount": [0.0] * 9}, Sizes(side=8)) == 36
    for arguments in (
        {"seed": [1], "steps": 10**9}, {"seed": [1] * 65}, {"image": image, "amount": [0.0] * 1001},
        {"seed": [1] * 64, "steps": 1000, "passes": 100}, {"seed": [1] * 10, "steps": 1000, "width": 4096, "height": 4096},
    ):  # fmt: skip
        with pytest.raises(ApiError):
            check_action(LIMITS, draw, arguments, Sizes(side=64))
