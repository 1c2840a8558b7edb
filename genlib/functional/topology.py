"""Grids that a map's units lie on, who is whose neighbour there, and how far a winner's pull reaches.

After Kohonen 1982 (doi:10.1007/BF00337288) and 2001 (Self-Organizing Maps, 3rd edition). Units are numbered from 0, row by row;
neighbours along a row are 1 apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

GridName = Literal["square", "hexagonal", "ring"]
NeighbourhoodName = Literal["gaussian", "bubble"]
Neighbourhood = Callable[[Tensor, float], Tensor]
"""(distances on the grid, radius) -> pull in [0, 1], of the same shape."""
MOST_ASPECT = 1.5
"""Longer over shorter side of the rectangles that `rectangle` chooses: an assumption, for maps that one looks at."""


def auto_units(samples: int) -> int:
    """The usual number of units for so many samples, 5 sqrt(n) (Tian et al. 2014), at least 4."""
    return max(4, round(5 * math.sqrt(samples)))


def rectangle(units: int) -> tuple[int, int]:
    """Shorter and longer side of the rectangle that comes nearest to so many units (4 or more); of equally near ones the squarest."""
    shorts = range(2, math.isqrt(units) + 2)
    sides = [(short, long) for short in shorts for long in range(short, math.floor(MOST_ASPECT * short) + 1)]
    return min(sides, key=lambda one: (abs(math.prod(one) - units), one[1] - one[0]))


def exponential(start: float, end: float, progress: float) -> float:
    """From start, at progress 0, to end, at progress 1, by equal factors."""
    return start * (end / start) ** progress


def gaussian(distance: Tensor, radius: float) -> Tensor:
    """exp(-d^2 / (2 radius^2)); what is below 1e-20 is 0, since numbers near the smallest slow a CPU tenfold."""
    return F.threshold(distance.square().mul_(-0.5 / radius**2).exp_(), 1e-20, 0.0, inplace=True)


def bubble(distance: Tensor, radius: float) -> Tensor:
    """1 up to the radius, 0 beyond it."""
    return (distance <= radius + _ROUNDING).to(distance.dtype)


NEIGHBOURHOODS: dict[NeighbourhoodName, Neighbourhood] = {"gaussian": gaussian, "bubble": bubble}
_ROUNDING = 1e-4  # of distances on a grid
_NUMBERS = 2**22  # of neighbours' prototypes that are there at once: 16 MB


@dataclass(frozen=True, slots=True)
class SquareGrid:
    """Rows and columns at right angles; an inner unit has eight neighbours, the diagonal ones sqrt(2) away."""

    rows: int
    columns: int
    reach: ClassVar[float] = math.sqrt(2)
    """Distance up to which units are neighbours."""

    @property
    def units(self) -> int:
        """How many there are."""
        return self.rows * self.columns

    @property
    def extent(self) -> float:
        """The distance between opposite corners."""
        return math.hypot(self.columns - 1, self.rows - 1)

    def places(self, unit: Tensor) -> Tensor:
        """Where units (...) lie: x to the right and y downwards, float32 (..., 2)."""
        return torch.stack([unit % self.columns, unit // self.columns], -1).float()

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Between units, which broadcast; float32."""
        (ax, ay), (bx, by) = self.places(a).unbind(-1), self.places(b).unbind(-1)
        across, down = ax - bx, ay - by
        return across.mul_(across).addcmul_(down, down).sqrt_()

    def pairs(self) -> Tensor:
        """All neighbours a < b, int64 (E, 2)."""
        return _steps(self.rows, self.columns, lambda row: ((0, 1), (1, -1), (1, 0), (1, 1)))

    def cells(self) -> Tensor:
        """Corners of the squares that the units fill, float32 (units, 4, 2)."""
        return self.places(torch.arange(self.units))[:, None] + torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


@dataclass(frozen=True, slots=True)
class HexagonalGrid(SquareGrid):
    """Every other row is half a step to the right; an inner unit has six neighbours, all 1 away."""

    reach: ClassVar[float] = 1.0

    @property
    def extent(self) -> float:
        return math.hypot(self.columns - 1 + (self.rows - 1) % 2 / 2, (self.rows - 1) * math.sqrt(3) / 2)

    def places(self, unit: Tensor) -> Tensor:
        row = unit // self.columns
        return torch.stack([unit % self.columns + row % 2 / 2, row * (math.sqrt(3) / 2)], -1).float()

    def pairs(self) -> Tensor:
        return _steps(self.rows, self.columns, lambda row: ((0, 1), (1, row % 2 - 1), (1, row % 2)))

    def cells(self) -> Tensor:
        """Corners of the hexagons that the units fill, float32 (units, 6, 2)."""
        angles = torch.arange(6) * (math.pi / 3) + math.pi / 6
        corners = torch.stack([angles.cos(), angles.sin()], -1) / math.sqrt(3)
        return self.places(torch.arange(self.units))[:, None] + corners


@dataclass(frozen=True, slots=True)
class RingGrid:
    """A closed chain of three or more units; distance is along it."""

    units: int
    reach: ClassVar[float] = 1.0

    @property
    def extent(self) -> float:
        """The distance half-way round."""
        return self.units // 2

    @property
    def radius(self) -> float:
        """Radius of the circle that it is drawn as."""
        return self.units / (2 * math.pi)

    def places(self, unit: Tensor) -> Tensor:
        """Where units (...) lie on the circle, from its rightmost point clockwise as y points downwards; float32 (..., 2)."""
        return self._at(unit, self.radius)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Between units, which broadcast; float32."""
        apart = (a - b).abs()
        return torch.minimum(apart, self.units - apart).float()

    def pairs(self) -> Tensor:
        """All neighbours, int64 (E, 2)."""
        unit = torch.arange(self.units)
        return torch.stack([unit, (unit + 1) % self.units], 1)

    def cells(self) -> Tensor:
        """Corners of the pieces of a band that the units fill, float32 (units, 4, 2)."""
        unit, width = torch.arange(self.units), self.radius / 4
        corners = ((-0.5, self.radius - width), (0.5, self.radius - width), (0.5, self.radius + width), (-0.5, self.radius + width))
        return torch.stack([self._at(unit + side, radius) for side, radius in corners], 1)

    def _at(self, unit: Tensor, radius: float) -> Tensor:
        angle = unit * (2 * math.pi / self.units)
        return torch.stack([angle.cos(), angle.sin()], -1) * radius


Grid = SquareGrid | HexagonalGrid | RingGrid


def _steps(rows: int, columns: int, offsets: Callable[[int], Iterable[tuple[int, int]]]) -> Tensor:
    """Pairs of units that are (rows down, columns right) apart, by the upper one's row; int64 (E, 2)."""
    found = [
        (row * columns + column, (row + down) * columns + column + right)
        for row in range(rows)
        for down, right in offsets(row)
        if row + down < rows
        for column in range(max(0, -right), min(columns, columns - right))
    ]
    return torch.tensor(found, dtype=torch.int64).view(-1, 2)


def adjacent(grid: Grid, a: Tensor, b: Tensor) -> Tensor:
    """Whether units, which broadcast, are the same or neighbours."""
    return grid.distance(a, b) <= grid.reach + _ROUNDING


def _both_ways(pairs: Tensor, units: int) -> tuple[Tensor, Tensor, Tensor]:
    """Units and their neighbours, each pair once either way, int64 (2 E,); and how many neighbours a unit has, at least 1, int64 (units,)."""
    unit, other = torch.cat([pairs, pairs.flip(1)]).unbind(1)
    return unit, other, torch.bincount(unit, minlength=units).clamp(min=1)


def _added(total: Tensor, unit: Tensor, other: Tensor, what: Callable[[Tensor, Tensor], Tensor], prototypes: Tensor) -> Tensor:
    """`total`, with what(units, neighbours) added to each unit's row; so many pairs at once as keep the memory bounded."""
    size = max(1, _NUMBERS // prototypes.shape[1])
    for a, b in zip(unit.split(size), other.split(size), strict=True):
        total.index_add_(0, a, what(a, b))
    return total


def heights(prototypes: Tensor, pairs: Tensor) -> Tensor:
    """The U-matrix (Ultsch & Siemon 1990): the mean distance of each unit's prototype to its neighbours'. prototypes (K, D) -> (K,)."""
    unit, other, count = _both_ways(pairs, len(prototypes))
    return _added(prototypes.new_zeros(len(prototypes)), unit, other, lambda a, b: (prototypes[a] - prototypes[b]).norm(dim=1), prototypes) / count


def neighbour_distortion(x: Tensor, winner: Tensor, prototypes: Tensor, pairs: Tensor) -> Tensor:
    """Mean squared distance of samples (B, D) to the prototypes (K, D) of their winners' neighbours; winner int64 (B,) -> (B,).

    It is small only where neighbours on the grid are near in the data: the local part of the SOM distortion (Lampinen & Oja 1992,
    doi:10.1007/BF00118594).
    """
    unit, other, count = _both_ways(pairs, len(prototypes))
    mean = _added(torch.zeros_like(prototypes), unit, other, lambda _, b: prototypes[b], prototypes) / count[:, None]
    spread = _added(prototypes.new_zeros(len(prototypes)), unit, other, lambda a, b: (prototypes[b] - mean[a]).square().sum(1), prototypes) / count
    return (x - mean[winner]).square().sum(1) + spread[winner]


def valleys(prototypes: Tensor, pairs: Tensor, hits: Tensor, depth: float, least: float = 0.01) -> Tensor:
    """Clusters of units: the valleys of the distances between neighbours. prototypes (K, D), hits (K,) -> int64 (K,), 0 the one of most hits.

    Neighbours are joined from the nearest pair on. Where two valleys meet, they stay apart if both are more than `depth` median distances
    deep and have more than a share `least` of the samples that units won, `hits`: clusters by persistence (Chazal et al. 2013,
    doi:10.1145/2535927).
    """
    apart = (prototypes[pairs[:, 0]] - prototypes[pairs[:, 1]]).norm(dim=1)
    into, size, enough = list(range(len(hits))), hits.tolist(), least * hits.sum().item()
    nearest, deep = [math.inf] * len(hits), depth * apart.median().item()

    def bottom(unit: int) -> int:
        while into[unit] != unit:
            into[unit] = unit = into[into[unit]]
        return unit

    order = apart.argsort(stable=True)
    for (one, other), distance in zip(pairs[order].tolist(), apart[order].tolist(), strict=True):
        a, b = sorted((bottom(one), bottom(other)), key=lambda unit: min(nearest[unit], distance))
        if a != b and (distance - min(nearest[b], distance) < deep or min(size[a], size[b]) <= enough):
            into[b], nearest[a], size[a] = a, min(nearest[a], distance), size[a] + size[b]
    bottoms = [bottom(unit) for unit in range(len(hits))]
    numbers = {unit: number for number, unit in enumerate(sorted(set(bottoms), key=lambda unit: (-size[unit], unit)))}
    return torch.tensor([numbers[unit] for unit in bottoms], device=prototypes.device)
