"""Minibatch standard deviation: its formula, groups, rows that do not count, and groups across processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genlib.nn.minibatch_stddev import with_group_stddev


def formula(group: Tensor) -> float:
    """Standard deviation over a group's rows, mean over its numbers."""
    return (group.var(0, unbiased=False) + 1e-8).sqrt().mean().item()


def test_every_group_is_told_its_own_standard_deviation() -> None:
    x = torch.randn(8, 3, 4, 4)
    found = with_group_stddev(x)
    assert found.shape == (8, 4, 4, 4)
    assert torch.equal(found[:, :3], x)
    for low in (0, 4):
        assert torch.allclose(found[low : low + 4, 3], torch.full((4, 4, 4), formula(x[low : low + 4])), atol=1e-5)


def test_a_collapsed_group_is_told_next_to_nothing() -> None:
    assert with_group_stddev(torch.randn(1, 3, 4, 4).expand(4, -1, -1, -1))[:, 3].max() < 1e-3


def test_the_last_group_may_be_smaller() -> None:
    x = torch.randn(6, 2, 4, 4)
    assert with_group_stddev(x)[5, 2, 0, 0].item() == pytest.approx(formula(x[4:]), abs=1e-5)


def test_rows_that_do_not_count_belong_to_no_group() -> None:
    x, valid = torch.randn(6, 2, 4, 4), torch.tensor([True, False, True, True, False, True])
    found = with_group_stddev(x, valid)
    assert torch.allclose(found[valid, 2], torch.full((4, 4, 4), formula(x[valid])), atol=1e-5)
    assert not found[~valid, 2].any()


def test_it_can_be_differentiated_twice() -> None:
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: with_group_stddev(x)[:, 1].square(), x, atol=1e-3, rtol=1e-2, eps=1e-3)
