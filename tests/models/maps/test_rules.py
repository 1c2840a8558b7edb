"""Winners, both learning rules, starts: against the definitions, one sample after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from genlib.functional.topology import NEIGHBOURHOODS, HexagonalGrid, NeighbourhoodName, RingGrid, SquareGrid
from genlib.models.maps.base.rules import TILE, BatchRule, OnlineRule, Pull, Rule, started, two_nearest

GRID = HexagonalGrid(4, 5)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pull_of(name: NeighbourhoodName, radius: float) -> Pull:
    return lambda winner, units: NEIGHBOURHOODS[name](GRID.distance(winner[:, None], torch.arange(GRID.units)[units]), radius)


def after(rule: Rule, prototypes: Tensor, x: Tensor, counts: Tensor, winner: Tensor, pull: Pull, progress: float) -> Tensor:
    """Where the rule says that prototypes belong after these samples."""
    return rule.targets(rule.add(rule.start(prototypes), x, counts, winner, pull, progress), prototypes)


@pytest.mark.parametrize(
    ("samples", "units", "dims", "offset"), [(700, 90, 5, 0.0), (300, 2, 1, 0.0), (50, 400, 64, 30.0), (2 * TILE // 900, 900, 3, 5.0)]
)
def test_winners_are_those_of_brute_force(samples: int, units: int, dims: int, offset: float) -> None:
    x, prototypes = numbers(samples, dims, seed=1) + offset, numbers(units, dims, seed=2) + offset
    found, distance = two_nearest(x, prototypes)
    apart = np.stack([np.linalg.norm(prototypes.double().numpy() - row, axis=1) for row in x.double().numpy()])
    order = np.argsort(apart, axis=1, kind="stable")
    assert (found[:, 0].numpy() == apart.argmin(1)).all()
    assert (found.numpy() == order[:, :2]).all()
    np.testing.assert_allclose(distance.numpy(), apart.min(1), rtol=1e-5)


def test_near_draws_are_decided_as_in_double_precision() -> None:
    x, far = numbers(500, 8, seed=13) + 100, numbers(30, 8, seed=14) * 50 + 100
    almost = far[:10] + 1e-5 * numbers(10, 8, seed=15)
    prototypes = torch.cat([far, almost])
    apart = (x[:, None].double() - prototypes.double()).norm(dim=2)
    assert torch.equal(two_nearest(x, prototypes)[0][:, 0], apart.argmin(1))


def test_of_equal_prototypes_the_first_wins() -> None:
    prototypes = numbers(3, 4).repeat(2, 1)
    assert two_nearest(prototypes[:3] + 0.01, prototypes)[0].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("name", NEIGHBOURHOODS)
@pytest.mark.parametrize("samples", [7, 60])  # fewer and more than units
def test_batch_rule(name: NeighbourhoodName, samples: int) -> None:
    x, prototypes, pull = numbers(samples, 3, seed=3), numbers(GRID.units, 3, seed=4), pull_of(name, 1.3)
    winner, counts = two_nearest(x, prototypes)[0][:, 0], (torch.arange(samples) % 5 > 0).float()
    expected = prototypes.clone()
    for unit in range(GRID.units):
        weights = [counts[i].item() * pull(winner[i : i + 1], slice(unit, unit + 1)).item() for i in range(samples)]
        if sum(weights):
            expected[unit] = sum(weight * row for weight, row in zip(weights, x, strict=True)) / sum(weights)
    torch.testing.assert_close(after(BatchRule(), prototypes, x, counts, winner, pull, 0.3), expected, atol=1e-5, rtol=1e-5)


def test_a_unit_out_of_every_reach_stays() -> None:
    prototypes = numbers(GRID.units, 2, seed=5)
    targets = after(BatchRule(), prototypes, numbers(1, 2), torch.ones(1), torch.tensor([0]), pull_of("bubble", 1.0), 0.0)
    assert torch.equal(targets[-1], prototypes[-1])
    assert not torch.equal(targets[1], prototypes[1])


@pytest.mark.parametrize("name", NEIGHBOURHOODS)
def test_online_rule_is_one_sample_after_the_other(name: NeighbourhoodName) -> None:
    x, prototypes, pull = numbers(40, 3, seed=6), numbers(GRID.units, 3, seed=7), pull_of(name, 1.5)
    winner, counts = two_nearest(x, prototypes)[0][:, 0], (torch.arange(40) % 7 > 0).float()
    expected, rate = prototypes.clone(), 0.8 * (0.1 / 0.8) ** 0.25
    for row, unit, count in zip(x, winner, counts, strict=True):
        expected += count * rate * pull(unit[None], slice(None))[0, :, None] * (row - expected)
    torch.testing.assert_close(after(OnlineRule(0.8, 0.1), prototypes, x, counts, winner, pull, 0.25), expected, atol=1e-5, rtol=1e-5)


def test_a_start_from_samples_has_no_two_alike() -> None:
    torch.manual_seed(0)
    x = numbers(30, 2, seed=8)
    prototypes = started("samples", x, SquareGrid(8, 8))
    assert (torch.pdist(prototypes) > 0).all()
    assert torch.cdist(prototypes, x).amin(1).max() < 0.02


def test_a_start_from_the_plane_spans_the_two_largest_components() -> None:
    axes, _ = torch.linalg.qr(numbers(6, 6, seed=9))
    x = numbers(5000, 6, seed=10) * torch.tensor([5.0, 2.0, 0.1, 0.1, 0.1, 0.1]) @ axes.T + 3
    prototypes = started("plane", x, SquareGrid(5, 5)) - x.mean(0)
    along = prototypes @ axes
    assert along[:, 2:].abs().max() < 0.5
    assert along[:, 0].abs().max() == pytest.approx(10, rel=0.05)
    assert along[:, 1].abs().max() == pytest.approx(4, rel=0.05)


def test_a_start_from_a_line_and_of_a_ring() -> None:
    x = numbers(200, 1, seed=11)
    assert started("plane", x, HexagonalGrid(3, 3)).shape == (9, 1)
    ring = started("plane", numbers(500, 2, seed=12), RingGrid(12))
    assert math.isclose(ring.norm(dim=1).std().item(), 0, abs_tol=0.3)


def test_a_random_start_is_small() -> None:
    assert 0 < started("random", 100 + numbers(10, 3), GRID).abs().max() < 0.1
