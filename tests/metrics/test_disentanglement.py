"""The mutual information gap: whole where each factor has a number for itself, none where two share it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from genlib.metrics.disentanglement import binned, entropy, mutual_information, mutual_information_gap

RNG = np.random.default_rng(0)
KINDS, PLACES = RNG.integers(0, 6, 20_000), RNG.uniform(size=20_000)


def test_information_is_scikit_learns() -> None:
    a, b = KINDS, (KINDS + RNG.integers(0, 3, 20_000)) % 6
    assert mutual_information(a, b) == pytest.approx(mutual_info_score(a, b), rel=1e-9)
    assert entropy(a) == pytest.approx(mutual_info_score(a, a), rel=1e-9)


def test_a_number_for_each_factor_is_a_whole_gap() -> None:
    codes = np.stack([PLACES, 3.0 * KINDS, RNG.normal(size=20_000)], 1)
    assert mutual_information_gap(codes, np.stack([KINDS, PLACES], 1)) > 0.98


def test_factors_that_two_numbers_tell_alike_leave_none() -> None:
    codes = np.stack([KINDS, -KINDS, RNG.normal(size=20_000)], 1)
    assert mutual_information_gap(codes, KINDS[:, None]) == pytest.approx(0, abs=1e-9)
    assert mutual_information_gap(codes, np.zeros((20_000, 1))) == 0


def test_few_distinct_values_keep_their_own_bins_and_many_get_equal_ones() -> None:
    assert np.array_equal(binned(np.array([5.0, -1.0, 5.0, 9.0])), [1, 0, 1, 2])
    assert np.array_equal(np.bincount(binned(np.arange(1000) / 999)), [50] * 20)
