"""Partition functions: the tiled sum against the plain one, annealed importance sampling against the sum."""

from __future__ import annotations

import math

import pytest
import torch

from genlib.functional import partition
from genlib.functional.gibbs import BernoulliUnits, GaussianUnits, RBMParams
from genlib.functional.partition import annealed_log_partition, enumerated_units, log_partition, states, temperatures


def rbm(visible: int, hidden: int, units: BernoulliUnits | GaussianUnits, seed: int = 0) -> RBMParams:
    draws = torch.Generator().manual_seed(seed)
    return RBMParams(units, *(torch.randn(*shape, generator=draws, dtype=torch.float64) for shape in ((visible, hidden), (visible,), (hidden,))))


def test_states_are_all_and_each_once() -> None:
    found = states(0, 32, 5, torch.zeros(()))
    assert found.shape == (32, 5)
    assert len(found.unique(dim=0)) == 32
    torch.testing.assert_close(states(9, 17, 5, torch.zeros(())), found[9:17])


@pytest.mark.parametrize("sides", [(6, 4), (4, 7), (3, 3)])
def test_sum_over_either_side_is_the_double_sum(sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    m = rbm(*sides, BernoulliUnits())
    v, h = (states(0, 2**side, side, m.weight) for side in sides)
    energy = torch.stack([m.energy(v, one.expand(len(v), -1)) for one in h], 1)
    expected = (-energy).flatten().logsumexp(0).item()
    assert log_partition(m) == pytest.approx(expected, abs=1e-10)
    assert enumerated_units(m) == min(sides)
    monkeypatch.setattr(partition, "_TILE_NUMBERS", 64)
    assert log_partition(m) == pytest.approx(expected, abs=1e-10)


def test_gaussian_units_are_integrated() -> None:
    m = rbm(1, 4, GaussianUnits())
    grid = torch.linspace(-25, 25, 20_001, dtype=torch.float64)[:, None]
    expected = (-m.free_energy(grid)).logsumexp(0).item() + math.log((grid[1] - grid[0]).item())
    assert log_partition(m) == pytest.approx(expected, abs=1e-8)
    assert enumerated_units(rbm(2, 9, GaussianUnits())) == 9  # the side of the integral cannot be enumerated


def test_too_many_states_are_refused() -> None:
    with pytest.raises(ValueError, match="annealed importance sampling"):
        log_partition(rbm(40, 25, BernoulliUnits()))


def test_temperatures_grow_denser() -> None:
    betas = temperatures(14_500, torch.zeros(()))
    assert (betas[0], betas[500], betas[4500], betas[-1]) == (0.0, 0.5, 0.9, 1.0)
    assert (betas.diff() > 0).all()
    assert len(temperatures(7, torch.zeros(()))) == 8


@pytest.mark.parametrize("units", [BernoulliUnits(), GaussianUnits()])
@pytest.mark.parametrize("seed", range(3))
def test_annealing_finds_the_sum_within_its_error(units: BernoulliUnits | GaussianUnits, seed: int) -> None:
    m = rbm(9, 7, units, seed)
    if isinstance(units, GaussianUnits):
        m = RBMParams(units, m.weight / 3, m.visible, m.hidden)
    found = annealed_log_partition(m, torch.zeros_like(m.visible), steps=1000, chains=200, seed=seed)
    assert 0 < found.error < 0.2
    assert abs(found.log_z - log_partition(m)) < 4 * found.error


def test_annealing_an_rbm_without_weights_is_exact() -> None:
    m = rbm(9, 7, BernoulliUnits())
    m = RBMParams(m.units, torch.zeros_like(m.weight), m.visible, torch.zeros_like(m.hidden))
    found = annealed_log_partition(m, m.visible, steps=10, chains=5)
    assert found.log_z == pytest.approx(log_partition(m), abs=1e-9)
    assert found.error < 1e-9
