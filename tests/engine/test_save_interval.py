"""The closed form of the interval between checkpoints."""

from __future__ import annotations

import math

from genlib.engine.save_interval import best_interval, lost_share


def test_it_is_youngs_where_the_store_is_fast() -> None:
    assert best_interval(stall=8.0, write=10.0, apart=3600.0, step_seconds=2.0, steps=10**6) == round(math.sqrt(2 * 8 * 3600) / 2)


def test_it_is_within_the_run_and_no_shorter_than_a_write_or_a_step() -> None:
    assert best_interval(stall=8.0, write=1000.0, apart=3600.0, step_seconds=2.0, steps=10**6) == 500
    assert best_interval(stall=8.0, write=10.0, apart=3600.0, step_seconds=2.0, steps=7) == 7
    assert best_interval(stall=0.0, write=0.0, apart=3600.0, step_seconds=2.0, steps=7) == 1


def test_what_is_lost_is_stalls_and_half_an_interval_a_failure() -> None:
    assert lost_share(stall=1.0, write=0.0, apart=1000.0, between=100.0) == 1 / 100 + 50 / 1000
    assert lost_share(stall=0.0, write=20.0, apart=1000.0, between=100.0) == (50 + 20) / 1000
