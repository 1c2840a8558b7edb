"""The order is a bijection of every epoch, frozen, mixed, and local where blocks are large."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlib.data.order.sample_order import BLOCK_BYTES, ORDER_VERSION, SMALL_SET_BYTES, WINDOW, SampleOrder, block_samples


@settings(max_examples=60, deadline=None)
@given(num_samples=st.integers(1, 3000), block=st.integers(1, 9), seed=st.integers(-5, 2**62), epoch=st.integers(0, 2**31))
def test_every_epoch_holds_each_sample_once(num_samples: int, block: int, seed: int, epoch: int) -> None:
    positions = epoch * num_samples + np.arange(num_samples)
    order = SampleOrder(num_samples, min(block, max(1, num_samples // WINDOW)))
    assert np.array_equal(np.sort(order(positions, seed)), np.arange(num_samples))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2**40), st.integers(1, 500), st.lists(st.integers(0, 2**50), min_size=1, max_size=20))
def test_a_position_is_answered_alike_alone_and_in_company(num_samples: int, block: int, positions: list[int]) -> None:
    order = SampleOrder(num_samples, min(block, max(1, num_samples // WINDOW)))
    together = order(np.array(positions), 3)
    assert [int(order(np.array([position]), 3)[0]) for position in positions] == together.tolist()
    assert together.min() >= 0
    assert together.max() < num_samples


GOLDEN = {
    (10, 1, 0): [7, 9, 8, 2, 4, 2, 8],
    (1000, 1, 7): [506, 129, 172, 673, 43, 573, 293],
    (10_000, 4, 7): [8189, 6314, 3104, 6606, 5500, 814, 4008],
    (4_000_000_000, 64, 1): [113045805, 192549766, 1375056340, 165021060, 3902394000, 1102851908, 527595837],
}


def test_the_order_is_frozen() -> None:
    """A change here orphans every checkpoint in the world: raise ORDER_VERSION instead."""
    assert ORDER_VERSION == 1
    for (num_samples, block, seed), expected in GOLDEN.items():
        positions = np.array([0, 1, 2, 3, num_samples - 1, num_samples, 5 * num_samples // 2])
        assert SampleOrder(num_samples, block)(positions, seed).tolist() == expected


def test_epochs_and_seeds_differ() -> None:
    order, positions = SampleOrder(500), np.arange(500)
    first = order(positions, 0)
    assert (first == order(positions + 500, 0)).mean() < 0.02
    assert (first == order(positions, 1)).mean() < 0.02


def test_a_small_set_is_shuffled_evenly() -> None:
    """Over many seeds every sample comes first equally often: chi-squared below its 99.99% point for 10 degrees of freedom."""
    seeds = 4400
    first = [int(SampleOrder(11)(np.array([0]), seed)[0]) for seed in range(seeds)]
    counts = np.bincount(first, minlength=11)
    assert ((counts - seeds / 11) ** 2 / (seeds / 11)).sum() < 35.6


def test_a_window_reads_few_blocks() -> None:
    block, windows = 32, 8
    samples = SampleOrder(block * WINDOW * windows, block)(np.arange(block * WINDOW), 0)
    assert len(np.unique(samples // block)) == WINDOW
    assert len(np.unique(samples[:256] // block)) > WINDOW // 2  # a batch is mixed from most of them


@pytest.mark.parametrize(("samples", "size", "expected"), [(10**6, SMALL_SET_BYTES, 1), (10**9, 10**13, BLOCK_BYTES * 10**9 // 10**13)])
def test_blocks_shrink_with_the_set(samples: int, size: int, expected: int) -> None:
    assert block_samples(samples, size) == expected
