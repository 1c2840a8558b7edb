"""Grids, neighbourhoods, the U-matrix and its valleys, and round trips."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genlib.functional import topology, tours
from genlib.functional.topology import Grid, HexagonalGrid, RingGrid, SquareGrid, adjacent, auto_units, exponential, rectangle

GRIDS = (SquareGrid(5, 7), HexagonalGrid(6, 5), HexagonalGrid(5, 4), RingGrid(11))


def all_distances(grid: Grid) -> Tensor:
    unit = torch.arange(grid.units)
    return grid.distance(unit[:, None], unit)


def test_the_chapters_own_number() -> None:
    assert auto_units(164) == 64
    assert rectangle(64) == (8, 8)


def test_rectangles_are_near_and_not_too_long() -> None:
    for units in range(4, 5001):
        short, long = rectangle(units)
        assert short <= long <= 1.5 * short
        assert abs(short * long - units) <= max(4, 0.03 * units), units


@pytest.mark.parametrize("grid", [HexagonalGrid(6, 5), HexagonalGrid(7, 9)])
def test_inner_hexagons_have_six_neighbours_equally_far(grid: HexagonalGrid) -> None:
    places = grid.places(torch.arange(grid.units))
    apart = torch.cdist(places.double(), places.double()).fill_diagonal_(torch.inf)
    for row in range(1, grid.rows - 1):
        for column in range(1, grid.columns - 1):
            nearest = apart[row * grid.columns + column].sort().values
            torch.testing.assert_close(nearest[:6], torch.ones(6, dtype=torch.float64), atol=1e-6, rtol=0)
            assert nearest[6] > 1.7


@pytest.mark.parametrize("grid", GRIDS)
def test_pairs_are_the_units_within_reach(grid: Grid) -> None:
    unit = torch.arange(grid.units)
    near = adjacent(grid, unit[:, None], unit)
    pairs = {tuple(sorted(pair)) for pair in grid.pairs().tolist()}
    assert len(pairs) == len(grid.pairs())
    assert pairs == {(a, b) for a, b in near.nonzero().tolist() if a < b}


@pytest.mark.parametrize("grid", GRIDS)
def test_distances_are_a_metric_that_no_pair_exceeds_by_much(grid: Grid) -> None:
    apart = all_distances(grid)
    assert (apart == apart.T).all()
    assert (apart.diagonal() == 0).all()
    assert grid.extent == pytest.approx(apart.max().item(), abs=0.51)  # a shifted last row


def test_a_ring_is_closed() -> None:
    apart = all_distances(RingGrid(8))
    assert apart[0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


@pytest.mark.parametrize("grid", GRIDS)
def test_each_cell_lies_around_its_unit_and_neighbouring_cells_touch(grid: Grid) -> None:
    cells, places = grid.cells(), grid.places(torch.arange(grid.units))
    torch.testing.assert_close(cells.mean(1), places, atol=0.15, rtol=0)
    for a, b in grid.pairs().tolist():
        shared = torch.cdist(cells[a], cells[b]).amin(1) < 1e-4
        assert shared.sum() >= 1


def test_neighbourhoods() -> None:
    distance = torch.tensor([0.0, 1.0, 2.0, 2.1, 100.0])
    torch.testing.assert_close(topology.gaussian(distance, 2.0), torch.exp(-distance.double().square() / 8).float())
    assert topology.gaussian(distance, 0.5)[-1] == 0
    assert topology.bubble(distance, 2.0).tolist() == [1, 1, 1, 0, 0]


def test_exponential_decay_is_a_line_in_logarithms() -> None:
    steps = torch.linspace(0, 1, 50, dtype=torch.float64)
    values = torch.tensor([exponential(12.0, 0.5, t) for t in steps.tolist()], dtype=torch.float64)
    assert (values[0].item(), values[-1].item()) == (12.0, pytest.approx(0.5))
    assert torch.corrcoef(torch.stack([steps, values.log()]))[0, 1] ** 2 > 0.999999


def test_heights_are_mean_distances_to_neighbours() -> None:
    grid, prototypes = HexagonalGrid(5, 6), torch.randn(30, 3, generator=torch.Generator().manual_seed(5))
    unit = torch.arange(30)
    near = adjacent(grid, unit[:, None], unit).float().fill_diagonal_(0)
    expected = (torch.cdist(prototypes, prototypes) * near).sum(1) / near.sum(1)
    torch.testing.assert_close(topology.heights(prototypes, grid.pairs()), expected)


def test_neighbour_distortion_by_its_definition() -> None:
    grid, draw = SquareGrid(4, 5), torch.Generator().manual_seed(6)
    prototypes, x = torch.randn(20, 4, generator=draw), torch.randn(50, 4, generator=draw)
    winner, unit = torch.cdist(x, prototypes).argmin(1), torch.arange(20)
    near = adjacent(grid, unit[:, None], unit).float().fill_diagonal_(0)
    expected = (torch.cdist(x, prototypes).square() * near[winner]).sum(1) / near[winner].sum(1)
    torch.testing.assert_close(topology.neighbour_distortion(x, winner, prototypes, grid.pairs()), expected, atol=1e-4, rtol=1e-4)


def test_neighbours_in_tiles_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, draw = HexagonalGrid(5, 6), torch.Generator().manual_seed(8)
    prototypes, x = torch.randn(30, 4, generator=draw), torch.randn(9, 4, generator=draw)
    winner = torch.cdist(x, prototypes).argmin(1)

    def values() -> tuple[torch.Tensor, torch.Tensor]:
        return topology.heights(prototypes, grid.pairs()), topology.neighbour_distortion(x, winner, prototypes, grid.pairs())

    whole = values()
    monkeypatch.setattr(topology, "_NUMBERS", 30)  # seven pairs at once
    for value, expected in zip(values(), whole, strict=True):
        torch.testing.assert_close(value, expected)


def test_valleys_of_two_plateaus_and_an_empty_one() -> None:
    grid = SquareGrid(2, 6)
    line = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1, 5.2])
    prototypes = torch.stack([line, line + 0.05]).view(-1, 1)
    hits = torch.full((12,), 10.0)
    hits[:3], hits[6:9] = 30, 30
    assert topology.valleys(prototypes, grid.pairs(), hits, 0.75).tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert topology.valleys(prototypes, grid.pairs(), hits, 1000.0).tolist() == [0] * 12
    hits[3:6] = hits[9:] = 0  # nobody lives there: no cluster
    assert topology.valleys(prototypes, grid.pairs(), hits, 0.75).tolist() == [0] * 12


def test_a_ring_passes_points_in_order() -> None:
    angle = torch.rand(40, generator=torch.Generator().manual_seed(7)) * 2 * math.pi
    x = torch.stack([angle.cos(), angle.sin()], 1)
    ring = torch.arange(16) * (2 * math.pi / 16)
    prototypes = torch.stack([ring.cos(), ring.sin()], 1)
    order = tours.along_ring(x, torch.cdist(x, prototypes).argmin(1), prototypes)
    assert sorted(order.tolist()) == list(range(40))
    turns = torch.cat([angle[order], angle[order][:1]]).diff()
    assert (turns < 0).sum() == 1, "once round"
    assert tours.length(x, order) < 2 * math.pi


def test_the_nearest_neighbour_trip() -> None:
    x = torch.tensor([[0.0], [10.0], [1.0], [3.0], [-1.5]])
    assert tours.nearest_neighbour(x).tolist() == [0, 2, 3, 4, 1]
    assert tours.length(x, torch.tensor([0, 2, 3, 4, 1])) == pytest.approx(1 + 2 + 4.5 + 11.5 + 10)
