"""A mixture deals exact shares of any run of positions, and is frozen."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genlib.data.order.mixture import MIXTURE_PARTS, MixtureOrder
from genlib.data.order.sample_order import SampleOrder

MIXED = [506, 1166, 129, 172, 673, 1017, 529, 1096, 433]
weights = st.lists(st.floats(0.001, 1000), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(weights, st.integers(0, 2**41), st.integers(1, 2000))
def test_a_mixture_gives_every_part_its_share_of_any_run_of_positions(weights: list[float], start: int, length: int) -> None:
    mixture = MixtureOrder([SampleOrder(7)] * len(weights), weights)
    part, _ = mixture.deal(np.arange(start, start + length))
    for number, share in enumerate(mixture.parts):
        assert abs((part == number).sum() - length * share / MIXTURE_PARTS) <= math.ceil(math.log2(len(weights)))
        assert abs(share / MIXTURE_PARTS - weights[number] / sum(weights)) < 3e-6


@settings(max_examples=40, deadline=None)
@given(weights, st.integers(1, 400))
def test_every_part_of_a_mixture_is_gone_through_in_its_own_order(weights: list[float], length: int) -> None:
    mixture = MixtureOrder([SampleOrder(5 + number) for number in range(len(weights))], weights)
    part, place = mixture.deal(np.arange(length))
    for number in range(len(weights)):
        assert place[part == number].tolist() == list(range((part == number).sum()))


def test_a_small_part_starts_again_within_an_epoch_of_a_large_one() -> None:
    mixture = MixtureOrder([SampleOrder(1000), SampleOrder(10)], [1, 1])
    samples = mixture(np.arange(2000), 3)
    assert np.array_equal(np.sort(samples[samples < 1000]), np.arange(1000))
    assert np.array_equal(np.bincount(samples[samples >= 1000] - 1000), np.full(10, 100))


def test_the_mixture_is_frozen() -> None:
    mixture = MixtureOrder([SampleOrder(1000), SampleOrder(300), SampleOrder(50)], [0.7, 0.25, 0.05])
    assert mixture.parts == [700_000, 250_000, 50_000]
    assert mixture(np.array([0, 1, 2, 3, 4, 5, 10**6, 10**6 + 1, 10**12]), 7).tolist() == MIXED
