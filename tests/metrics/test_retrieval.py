"""Recall on sets whose answer is known."""

import torch
import torch.nn.functional as F

from genlib.metrics.retrieval import ranks, recall


def test_own_partner_is_nearest() -> None:
    x = F.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert set(recall(x, x).values()) == {1.0}


def test_rank_counts_the_nearer_ones() -> None:
    candidates = torch.eye(4)
    queries = F.normalize(torch.tensor([[1.0, 0, 0, 0], [3, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0]]), dim=1)
    assert ranks(queries, candidates).tolist() == [0, 1, 2, 3]
    scores = recall(queries, candidates, ks=(1, 2, 4))
    assert [scores[f"image_to_text_R@{k}"] for k in (1, 2, 4)] == [0.25, 0.5, 1.0]


def test_chunks_change_nothing() -> None:
    g = torch.Generator().manual_seed(1)
    a, b = (F.normalize(torch.randn(37, 8, generator=g), dim=1) for _ in range(2))
    assert torch.equal(ranks(a, b, chunk=5), ranks(a, b))


def test_equal_answers_earn_no_luck() -> None:
    """A model that answers the same to everything has recall k / n, not 1."""
    same = torch.ones(100, 1)
    assert recall(same, same)["image_to_text_R@10"] == 0.0
