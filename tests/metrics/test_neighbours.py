"""Nearest neighbours against the whole matrix of distances."""

from __future__ import annotations

import pytest
import torch

from genlib.metrics.neighbours import nearest, neighbour_precision


@pytest.mark.parametrize("chunk", [3, 16, 1000])
def test_nearest_are_those_of_the_whole_matrix(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(20, 5, generator=generator), torch.randn(57, 5, generator=generator)
    assert torch.equal(nearest(queries, gallery, 4, chunk=chunk), torch.cdist(queries, gallery).argsort(1)[:, :4])


def test_precision_counts_others_of_the_same_label() -> None:
    codes = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1, 5.2])[:, None]
    assert neighbour_precision(codes, torch.tensor([0, 0, 0, 1, 1, 1]), 2) == 1
    assert neighbour_precision(codes, torch.tensor([0, 0, 1, 1, 1, 0]), 2) == pytest.approx(4 / 12)
    assert neighbour_precision(torch.zeros(40, 2), torch.zeros(40), 10) == 1


def test_more_neighbours_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="5 neighbours are asked for of 4 samples; ask for fewer"):
        nearest(torch.zeros(1, 2), torch.zeros(4, 2), 5)
