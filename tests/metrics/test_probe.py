"""Probes on codes whose classes are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genlib.metrics.probe import linear_probe, neighbour_vote, vote_of_others


def blobs(each: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Four classes, each around a direction of its own, of any length."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(each)
    codes = torch.eye(4)[labels] + spread * torch.randn(4 * each, 4, generator=generator)
    return codes * (0.1 + torch.rand(len(codes), 1, generator=generator)), labels


def accuracy(found: Tensor, labels: Tensor) -> float:
    return (found == labels).double().mean().item()


def test_both_tell_classes_apart_and_learn_nothing_from_noise() -> None:
    (codes, labels), (held_out, expected) = blobs(100, 0.1), blobs(50, 0.1, seed=1)
    noise, other = torch.randn(400, 4, generator=torch.Generator().manual_seed(2)), torch.randn(200, 4, generator=torch.Generator().manual_seed(3))
    for predict in (linear_probe, neighbour_vote):
        assert accuracy(predict(codes, labels, held_out), expected) > 0.98
        assert accuracy(predict(noise, labels, other), expected) < 0.4


def test_the_probe_is_blind_to_offset_and_scale() -> None:
    (codes, labels), (held_out, _) = blobs(50, 0.4), blobs(50, 0.4, seed=1)
    scale, offset = torch.tensor([1e-3, 1.0, 50.0, 7.0]), torch.tensor([0.0, 1e3, -4.0, 9.0])
    moved = linear_probe(codes.double() * scale + offset, labels, held_out.double() * scale + offset)
    assert accuracy(moved, linear_probe(codes, labels, held_out)) > 0.99


def test_a_linear_probe_is_linear() -> None:
    """Classes in the four corners of a square, opposite ones alike: neighbours know them, no line does."""
    corners = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]).repeat(50, 1)
    corners, labels = corners + 0.05 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1]).repeat(50)
    assert accuracy(neighbour_vote(corners, labels, corners), labels) == 1.0
    assert accuracy(linear_probe(corners, labels, corners), labels) < 0.8


def test_neighbours_vote_by_direction_and_the_nearest_decides_a_tie() -> None:
    codes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [10.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([7, 3, 7, 3])
    query = torch.tensor([[100.0, 60.0], [0.01, 0.03]])
    assert neighbour_vote(codes, labels, query, k=1).tolist() == [7, 3]
    assert neighbour_vote(codes, labels, query, k=4).tolist() == [7, 3]
    assert neighbour_vote(codes, torch.tensor([5, 3, 7, 3]), query, k=3).tolist() == [7, 3]
    assert neighbour_vote(codes, labels, query, k=99).tolist() == [7, 3]


@pytest.mark.parametrize("k", [1, 5, 999])
def test_nobody_votes_for_itself(k: int) -> None:
    codes, labels = blobs(6, 0.3)
    found = vote_of_others(codes, labels, k=k)
    for i in range(len(codes)):
        rest = torch.arange(len(codes)) != i
        assert found[i] == neighbour_vote(codes[rest], labels[rest], codes[i : i + 1], k=k)[0]


def test_equal_codes_do_not_vote_for_themselves_either() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    assert (vote_of_others(torch.ones(4, 2), labels, k=1) != labels).all()


def test_one_class_is_an_answer() -> None:
    codes = torch.randn(5, 3)
    assert linear_probe(codes, torch.full((5,), 2), codes[:2]).tolist() == [2, 2]
