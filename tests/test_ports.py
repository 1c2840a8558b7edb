"""Ports: what is taken and refused, examples, and what a result must be."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genlib.actions import Action
from genlib.ports import MAX_SEED, PORTS, Port, Sizes, choice, register, resolved
from tests.serve.toy import Toy

SIZES = Sizes(channels=3, side=8, code=4, codebook=16, code_grid=2, classes=("cat", "dog"))
ARRAYS = {name: port for name, port in PORTS.items() if port.array}


@pytest.mark.parametrize("kind", PORTS)
def test_an_example_is_taken_and_each_row_is_its_own(kind: str) -> None:
    port = PORTS[kind]
    three, two = port.example(SIZES, 3), port.example(SIZES, 2)
    port.taken(three)
    if port.rows:
        assert len(three) == 3
        assert np.array_equal(np.asarray(three[:2]), np.asarray(two))


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_example_keeps_the_promise_of_a_result(kind: str) -> None:
    port = PORTS[kind]
    made = port.taken(port.example(SIZES, 3))
    assert resolved(port, SIZES).problem(made, SIZES, 3) == ""


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        ("seeds", [], "is empty"),
        ("seeds", [-1], "must be at least 0"),
        ("seeds", [MAX_SEED + 1], "must be at most"),
        ("seeds", 3, "list of integers"),
        ("seeds", [True], "must be an integer"),
        ("steps", 0, "must be at least 1"),
        ("steps", 1.5, "must be an integer"),
        ("steps", "5", "an integer"),
        ("guidance", float("nan"), "is not finite"),
        ("guidance", 1e9, "must be at most"),
        ("strength", 1.1, "must be at most 1"),
        ("texts", ["a", 1], "must be a string"),
        ("texts", "a", "list of strings"),
        ("image", np.zeros((8, 8)), "has not the axes of image"),
        ("image", [[0.0]], "numbers in rows"),
        ("image", np.zeros((0, 3, 8, 8)), "is empty"),
        ("image", np.zeros((1, 3, 8, 8), object), "numbers in rows"),
        ("sample", np.zeros((2, 3, 4)), "has not the axes of sample"),
    ],
)
def test_what_does_not_fit_is_a_few_words(kind: str, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PORTS[kind].taken(value)


def test_limits_of_a_server_bound_what_names_them() -> None:
    assert PORTS["steps"].taken(1000) == 1000
    with pytest.raises(ValueError, match="must be at most 100"):
        PORTS["steps"].taken(101, {"steps": 100})
    assert PORTS["guidance"].taken(101, {"steps": 100}) == 101


@given(st.integers(1, 5), st.integers(0, 255))
def test_levels_of_pictures_become_numbers(rows: int, level: int) -> None:
    made = PORTS["image"].taken(np.full((rows, 3, 2, 2), level, np.uint8))
    assert made.dtype == torch.float32
    assert torch.allclose(made, torch.full((rows, 3, 2, 2), level / 255))
    assert PORTS["codes"].taken(np.full((rows, 2, 2), level, np.uint8)).dtype == torch.int64


@pytest.mark.parametrize(
    ("kind", "made", "problem"),
    [
        ("image", torch.rand(2, 3, 8, 8) * 2, "outside of image's 0 to 1"),
        ("image", torch.rand(2, 1, 8, 8), "1 along channel, where the model has 3"),
        ("image", torch.rand(2, 3, 8), "not the axes batch, channel, height, width"),
        ("image", torch.rand(3, 3, 8, 8), "3 rows for 2"),
        ("codes", torch.rand(2, 2, 2), "holds fractions"),
        ("scores", torch.arange(2), "holds integers"),
        ("code", torch.full((2, 4), torch.nan), "not finite"),
        ("code", torch.rand(2, 5), "5 along code"),
        ("latent", torch.rand(2, 3, 2, 2), ""),
    ],
)
def test_what_a_result_breaks_is_said(kind: str, made: torch.Tensor, problem: str) -> None:
    found = PORTS[kind].problem(made, SIZES, 2)
    assert re.search(re.escape(problem), found) if problem else found == ""


def test_samples_are_images_or_vectors_whichever_the_task_has() -> None:
    flat = Sizes(vector=2)
    assert resolved(PORTS["sample"], SIZES).kind == "image"
    assert resolved(PORTS["sample"], flat).kind == "vector"
    assert PORTS["sample"].example(flat, 3).shape == (3, 2)
    assert PORTS["sample_frames"].example(SIZES, 3).shape[2:] == (3, 8, 8)


def test_a_family_adds_a_port_of_its_own() -> None:
    port = Port(kind="test_depth_map", axes=("batch", "height", "width"), low=0)
    try:
        assert register(port) == port == register(Port(kind="test_depth_map", axes=("batch", "height", "width"), low=0))
        with pytest.raises(ValueError, match="another port of the kind 'test_depth_map'; give this one another name"):
            register(Port(kind="test_depth_map"))
    finally:
        del PORTS["test_depth_map"]
    assert choice("sampler", ("a", "b")).taken("a") == "a"


def test_an_action_says_what_it_lacks_and_does_not_know() -> None:
    (paint,) = (one for one in Toy.actions() if one.name == "paint")
    assert (paint.required, paint.rows, paint.named("seeds"), paint.named("image")) == (("words", "chosen"), ("words", "chosen"), "chosen", None)
    assert paint.summary == "Paints words, a seed each, asking the network at each noise level."
    for given_, sentence in (({"words": ["a"]}, "paint needs chosen; give it"), ({"word": ["a"]}, "paint takes no argument 'word'; it takes words")):
        with pytest.raises(ValueError, match=sentence):
            paint.taken(given_)
    assert isinstance(paint, Action)
