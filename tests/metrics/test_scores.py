"""KID, inception score, precision and recall, CLIP score: facts that hold exactly, and torchmetrics' values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.metrics.clip_score import clip_score, shuffled_clip_score
from genlib.metrics.inception_score import InceptionScore
from genlib.metrics.kid import kid
from genlib.metrics.precision_recall import precision_recall


def rows(count: int, size: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def test_kid_of_one_distribution_is_0_in_the_mean() -> None:
    """Unbiased: the mean over independent pairs of sets lies within three standard errors of 0, and some are negative."""
    values = torch.tensor([kid(rows(100, seed=2 * i), rows(100, seed=2 * i + 1))[0] for i in range(100)])
    assert values.mean().abs() < 3 * values.std() / 10
    assert (values < 0).any()
    assert kid(rows(100), rows(100, seed=1) + 0.5)[0] > 10 * values.abs().max()


def test_kid_is_the_mean_over_all_pairs() -> None:
    """With its kernel written out for each pair."""
    x, y = rows(7).double(), rows(7, seed=1).double()
    kernel = [[[(a @ b / 16 + 1) ** 3 for b in right] for a in left] for left, right in ((x, x), (y, y), (x, y))]
    same = [sum(k[i][j] for i in range(7) for j in range(7) if i != j) / 42 for k in kernel[:2]]
    exact = same[0] + same[1] - 2 * sum(map(sum, kernel[2])) / 49
    assert kid(x, y)[0] == pytest.approx(exact.item(), rel=1e-12)


def test_kid_draws_by_its_seed() -> None:
    x, y = rows(60), rows(50, seed=1)
    first = kid(x, y, subsets=5, subset_size=20)
    torch.manual_seed(9)
    assert kid(x, y, subsets=5, subset_size=20) == first
    assert kid(x, y, subsets=5, subset_size=20, seed=1) != first
    with pytest.raises(ValueError, match="KID needs at least two pictures on each side, there are 1 real and 50 generated"):
        kid(x[:1], y)


def inception_score(logits: Tensor, splits: int = 1) -> float:
    score = InceptionScore(logits.shape[1], splits=splits)
    for low in range(0, len(logits), 30):
        score.add(torch.arange(low, min(low + 30, len(logits))), logits[low : low + 30])
    return score.score()[0]


def test_inception_score_of_sure_and_uniform_classes_is_their_number() -> None:
    sure = 1e4 * F.one_hot(torch.arange(70) % 7, 7).float()
    assert inception_score(sure) == pytest.approx(7, rel=1e-12)


def test_inception_score_of_a_constant_is_1() -> None:
    assert inception_score(rows(1, 7).expand(50, 7)) == pytest.approx(1, rel=1e-12)


def test_inception_score_by_divergence_and_by_entropies() -> None:
    p = (3 * rows(100, 7)).double().softmax(1)
    by_divergence = (p * (p.log() - p.mean(0).log())).sum(1).mean().exp().item()
    assert inception_score(3 * rows(100, 7)) == pytest.approx(by_divergence, rel=1e-6)


def test_inception_score_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore as Theirs

    theirs = Theirs(feature=nn.Identity(), splits=1)
    theirs.update(3 * rows(100, 7))
    assert inception_score(3 * rows(100, 7)) == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def test_classes_in_turn_reach_every_split() -> None:
    """Splits are by chance, not by number: with ten classes in turn and ten splits by number each would hold one class alone."""
    sure = 1e4 * F.one_hot(torch.arange(2000) % 10, 10).float()
    assert inception_score(sure, splits=10) == pytest.approx(10, rel=0.02)


def test_precision_and_recall_of_a_set_with_itself_are_1() -> None:
    assert precision_recall(rows(100), rows(100)) == (1.0, 1.0)


def test_precision_is_lost_by_bad_pictures_and_recall_by_missing_kinds() -> None:
    near, kinds = rows(200, 2), torch.cat([rows(200, 2, seed=1), rows(200, 2, seed=2) + 100])
    precision, recall = precision_recall(kinds, near)  # one kind of two
    assert precision > 0.9 > 0.5 >= recall > 0.45
    precision, recall = precision_recall(near, kinds)  # every other picture is of nothing
    assert recall > 0.9 > 0.5 >= precision > 0.45


def test_precision_and_recall_on_a_line() -> None:
    """k = 1."""
    real, fake = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([[2.0], [4.0], [20.0]])
    # real radii 1, 1, 3: [-1, 1], [0, 2], [1, 7] hold 2 and 4; generated radii 2, 2, 16: [0, 4], [2, 6], [4, 36] hold all
    assert precision_recall(real, fake, k=1) == (pytest.approx(2 / 3), 1.0)


def test_chunks_change_nothing() -> None:
    x, y = rows(100, 4), rows(90, 4, seed=1)
    assert precision_recall(x, y, chunk=7) == precision_recall(x, y)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="with k = 3 need more than 3 pictures on each side, there are 100 real and 3 generated"):
        precision_recall(rows(100), rows(3))


def test_clip_scores_of_known_directions() -> None:
    half = math.sqrt(0.5)
    image, text = torch.tensor([[1.0, 0], [0, 1], [-1, 0]]), torch.tensor([[half, half], [0, 1], [1, 0]])
    assert clip_score(image, text) == pytest.approx(100 * (half + 1 - 1) / 3)


def test_shuffled_clip_score_is_the_mean_over_captions_of_others() -> None:
    captions = [f"a thing of kind {i % 4}" for i in range(11)]
    image, kinds = F.normalize(rows(11) + 0.5, dim=1), F.normalize(rows(4, seed=1) + 0.5, dim=1)
    text = kinds[[i % 4 for i in range(11)]]
    means = []
    for i in range(11):
        others = [(image[i] @ text[j]).item() for j in range(11) if captions[j] != captions[i]]
        means.append(sum(others) / len(others))
    assert shuffled_clip_score(image, text, captions, chunk=4) == pytest.approx(100 * sum(means) / 11, rel=1e-6)
    with pytest.raises(ValueError, match="at least two different captions"):
        shuffled_clip_score(image, text, ["same"] * 11)
