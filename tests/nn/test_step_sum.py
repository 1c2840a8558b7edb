"""Sums of a step's rows: those that count, over micro-batches and ranks, and running means that move by them."""

from __future__ import annotations

import torch

from genlib.distributed import rank
from genlib.nn.step_sum import StepSum, moved, taken
from tests.processes import run_ranks

ROWS = torch.tensor([[1.0, 2.0], [3.0, 4.0], [torch.nan, 1.0], [5.0, torch.inf], [100.0, 100.0], [7.0, 9.0]])
COUNTS = torch.tensor([True, True, True, True, False, True])


def test_rows_that_count_and_are_finite_are_added_up_once() -> None:
    one, other = StepSum(2), StepSum()
    for part in (slice(0, 3), slice(3, 6)):
        one.add(ROWS[part], COUNTS[part])
    other.add(torch.tensor([2.0, -1.0]), torch.tensor([True, True]))
    (total, count), (single, pair) = taken(one, other)
    assert (total.tolist(), count.item(), single.tolist(), pair.item()) == ([11, 15], 3, [1], 2)
    assert [(total.tolist(), count.item()) for total, count in taken(one, other)] == [([0, 0], 0), ([0], 0)]
    assert not one.state_dict(), "no checkpoint holds what lives for a step"


def test_a_running_mean_keeps_its_share_and_stays_where_there_are_no_rows() -> None:
    old = torch.tensor([1.0, 1.0])
    assert moved(old, torch.tensor([6.0, 0.0]), torch.tensor(2.0), 0.75).tolist() == [1.5, 0.75]
    assert moved(old, torch.zeros(2), torch.tensor(0.0), 0.75).tolist() == [1, 1]


def on_ranks() -> None:
    one = StepSum(2)
    one.add(ROWS[3 * rank() : 3 * rank() + 3], COUNTS[3 * rank() : 3 * rank() + 3])
    ((total, count),) = taken(one)
    assert (total.tolist(), count.item()) == ([11, 15], 3)


def test_all_ranks_get_the_sum_of_all() -> None:
    run_ranks(2, on_ranks)
