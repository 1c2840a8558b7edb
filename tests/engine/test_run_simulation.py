"""Runs on paper: against what is counted by hand, the closed form, and draws of every rank's time."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from genlib.engine.run_simulation import GIVE_UP, Losses, PaperRun, PoissonLosses, SlowestRank, expected, simulate
from genlib.engine.save_interval import best_interval, lost_share

NEVER: Losses = lambda now, nodes: math.inf  # noqa: E731
PLAIN = PaperRun(
    steps=100, step_seconds=lambda nodes: 8.0 / nodes, nodes=4, least_nodes=4, stall_seconds=1.0, write_seconds=5.0, restart_seconds=30.0
)  # steps of 2 s


def at(*times: float) -> Losses:
    """Losses at those times."""
    return lambda now, nodes: min((moment for moment in times if moment > now), default=math.inf)


def test_an_undisturbed_run_is_its_steps_its_saves_and_the_last_write() -> None:
    found = simulate(PLAIN, 10, NEVER)
    assert (found.steps, found.saves, found.lost, found.restarts) == (200, 10 * 1 + 5, 0, 0)
    assert (found.seconds, found.node_seconds, found.finished) == (215, 4 * 215, 1)
    assert found.goodput == 200 / 215


def test_the_last_interval_may_be_shorter() -> None:
    assert simulate(PLAIN, 30, NEVER).seconds == 200 + 4 * 1 + 5


def test_a_save_waits_for_the_one_before() -> None:
    found = simulate(replace(PLAIN, write_seconds=50.0), 10, NEVER)
    assert found.saves == 10 * 1 + 9 * 30 + 50, "each but the first after 20 s of steps, when 30 of the 50 are left"


def test_a_loss_costs_what_no_sealed_checkpoint_has() -> None:
    """Saves end at 21, 42, 63, ... and are sealed 5 s later: at 46 the newest is that of 21."""
    found = simulate(PLAIN, 10, at(46.0))
    assert (found.lost, found.restarts, found.losses) == (46 - 21, 30, 1)
    assert (found.steps, found.saves) == (200, 15)
    found = simulate(PLAIN, 10, at(47.0))
    assert found.lost == 47 - 42
    assert found.seconds == 215 + 5 + 30


def test_a_loss_before_the_first_checkpoint_begins_again() -> None:
    assert simulate(PLAIN, 10, at(25.5)).lost == 25.5


def test_a_loss_in_a_restart_begins_it_again() -> None:
    found = simulate(PLAIN, 10, at(47.0, 57.0))
    assert (found.lost, found.restarts, found.losses) == (5, 10 + 30, 2)


def test_a_run_of_fixed_size_waits_for_the_replacement() -> None:
    found = simulate(replace(PLAIN, replacement_seconds=100.0), 10, at(47.0))
    assert (found.waits, found.restarts, found.seconds) == (100, 30, 215 + 5 + 100 + 30)
    assert found.node_seconds == 4 * found.seconds - 100, "the lost one is not paid for"


def test_an_elastic_run_goes_on_with_fewer_nodes_and_takes_the_new_one_in() -> None:
    """Steps of 8/3 s from 77 on, where saves end 27 2/3 s apart; at 147 two of these are sealed, and it restarts once more."""
    found = simulate(replace(PLAIN, least_nodes=3, replacement_seconds=100.0), 10, at(47.0))
    assert (found.waits, found.restarts, found.losses) == (0, 60, 1)
    assert found.steps == pytest.approx(80 * 2 + 20 * 8 / 3)
    assert found.lost == pytest.approx(5 + (147 - 77 - 2 * (80 / 3 + 1)))
    assert found.node_seconds == pytest.approx(4 * found.seconds - 100)


def test_below_the_least_nodes_an_elastic_run_waits() -> None:
    found = simulate(replace(PLAIN, least_nodes=3, replacement_seconds=100.0), 10, at(47.0, 50.0))
    assert (found.waits, found.losses) == (97, 2), "from 50 to 147, when the first is back"


def test_parts_add_up_with_everything_at_once() -> None:
    run = replace(PLAIN, steps=5000, least_nodes=2, spread=0.1, ranks_per_node=8, replacement_seconds=300.0)
    clock = 0.0

    def losses(now: float, nodes: int) -> float:
        nonlocal clock
        assert now >= clock
        clock = now
        return poisson(now, nodes)

    poisson = PoissonLosses(1 / 4000, 3)
    found = simulate(run, 20, losses)
    assert found.finished == 1
    assert found.losses > 10
    assert min(found.steps, found.saves, found.lost, found.restarts) > 0
    assert found.seconds >= clock, "what it went to is all of the time"


def test_a_run_that_does_not_get_on_is_given_up() -> None:
    for apart in (40, 1):  # of each node: it never comes to a checkpoint, it never comes to a step
        found = simulate(PLAIN, 100, PoissonLosses(1 / apart, 0))
        assert (found.finished, found.steps, found.seconds) == (0, 0, pytest.approx(GIVE_UP * 200))


def test_the_same_seed_gives_the_same_run() -> None:
    run = replace(PLAIN, steps=2000, spread=0.2, ranks_per_node=8)
    one, again, other = (simulate(run, 10, PoissonLosses(1 / 2000, seed), seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_losses_come_at_their_rate_and_not_by_who_asks() -> None:
    often, seldom = PoissonLosses(0.01, 7), PoissonLosses(0.01, 7)
    times = {often(now, 4) for now in np.arange(0, 100_000, 0.5)}
    assert {seldom(now, 4) for now in np.arange(0, 100_000, 50.0)} <= times
    assert len(times) == pytest.approx(100_000 * 0.04, rel=0.06)
    gaps = [later - earlier for earlier, later in pairwise(sorted(times))]
    assert np.std(gaps) == pytest.approx(25, rel=0.06), "exponential: deviation and mean are one"


@pytest.mark.parametrize(("ranks", "spread"), [(1, 0.3), (8, 0.1), (512, 0.05)])
def test_the_slowest_rank_is_that_of_as_many_draws(ranks: int, spread: float) -> None:
    sigma = math.sqrt(math.log1p(spread**2))
    drawn = np.random.default_rng(0).lognormal(-(sigma**2) / 2, sigma, (20_000, ranks)).max(1)
    mean, deviation = SlowestRank(ranks, spread).moments
    assert mean == pytest.approx(drawn.mean(), rel=0.005)
    assert deviation == pytest.approx(drawn.std(), rel=0.03)
    for count in (3, 40):  # one by one, and as a whole
        sums = SlowestRank(ranks, spread).sums(np.full(20_000, count), np.random.default_rng(1))
        assert sums.mean() == pytest.approx(count * drawn.mean(), rel=0.005)
        assert sums.std() == pytest.approx(math.sqrt(count) * drawn.std(), rel=0.03)


def test_the_closed_form_is_met_where_it_holds() -> None:
    """Losses that are far apart, restarts of no time: what is lost is within a tenth of the closed form, whose best interval is as good as any."""
    run = replace(PLAIN, steps=400_000, stall_seconds=4.0, write_seconds=2.0, restart_seconds=0.0)
    apart, step = 20_000.0, 2.0
    best = best_interval(stall=4.0, write=2.0, apart=apart, step_seconds=step, steps=run.steps)
    assert best == 200
    lost = {every: 1 - expected(run, every, 1 / (4 * apart), 16).goodput for every in (best // 4, best // 2, best, best * 2, best * 4)}
    for every, share in lost.items():
        assert share == pytest.approx(lost_share(stall=4.0, write=2.0, apart=apart, between=every * step), rel=0.1)
    assert min(lost, key=lost.__getitem__) == best


def test_a_month_of_4096_gpus_takes_a_moment() -> None:
    run = PaperRun(
        steps=1_000_000, step_seconds=lambda nodes: 2.6 * 512 / nodes, nodes=512, least_nodes=512, ranks_per_node=8, spread=0.05, stall_seconds=0.5,
        write_seconds=20.0, restart_seconds=300.0,
    )  # fmt: skip
    begin = time.process_time()
    found = simulate(run, 60, PoissonLosses(1 / (6300 * 3600), 0))
    assert time.process_time() - begin < 2
    assert found.seconds > 30 * 86400
    assert found.losses > 20
