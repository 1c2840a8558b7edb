"""How a self-organising map learns: its start, the winners of samples, and where each winner and its neighbours are pulled to.

Competition: the unit whose prototype is nearest wins (Kohonen 1982, doi:10.1007/BF00337288). Adaptation by a rule that says where
each prototype belongs; a step of plain SGD with learning rate 1 puts it there. Both rules are over the samples of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from genlib.distributed import all_gather, mean_over_ranks
from genlib.functional.topology import Grid, exponential

Pull = Callable[[Tensor, slice], Tensor]
"""(winners (B,), units) -> how much each winner pulls each of those units, (B, U) in [0, 1]."""
TILE = 2**19
"""Numbers of one tile of samples by units: 2 MB."""


def two_nearest(x: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """The winner and the runner-up of each sample, and how far the winner is. x (B, D), prototypes (K, D), K >= 2 -> int64 (B, 2), float32 (B,).

    Found by one matrix product a tile. Where its rounding could decide which of the two is nearer, their differences from the sample
    are looked at in double precision: so neither other rows of a batch nor the number of ranks have a say. The lower number wins a draw.
    """
    center = prototypes.mean(0)
    moved = prototypes - center
    half = moved.square().sum(1) / 2
    with torch.autocast(x.device.type, enabled=False):  # what is said of its rounding is true of fp32
        found = [_two(rows, rows - center, prototypes, moved, half) for rows in x.split(max(1, TILE // len(prototypes)))]
    units = torch.cat(found)
    return units, (x - prototypes.index_select(0, units[:, 0])).norm(dim=1)


def _two(x: Tensor, x_moved: Tensor, prototypes: Tensor, moved: Tensor, half: Tensor) -> Tensor:
    scores = torch.addmm(half, x_moved, moved.T, alpha=-1)
    first, low = _lowest(scores)
    second, high = _lowest(scores.scatter_(1, first[:, None], torch.inf))
    longest = half.max()
    rounding = 2.0**-22 * (x.shape[1] + 2) * (x_moved.norm(dim=1) * (2 * longest).sqrt() + longest)
    units = torch.stack([first, second], 1)
    rows = (high - low <= rounding).nonzero()[:, 0] if _is_here(x) else torch.arange(len(x), device=x.device)
    close = units[rows].sort(1).values
    squares = (x[rows, None].double() - prototypes[close].double()).square().sum(2)
    return units.index_put((rows,), torch.where((squares[:, 1] < squares[:, 0])[:, None], close.flip(1), close))


def _is_here(x: Tensor) -> bool:
    """Whether its values are in the CPU's memory: not on another device, nor only traced."""
    return x.device.type == "cpu" and type(x) is Tensor


def _lowest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Column of the lowest number of each row (B, K), and that number, both (B,)."""
    if not _is_here(scores):
        values, columns = scores.min(1)
        return columns, values
    columns = torch.from_numpy(scores.numpy().argmin(1))  # a tenth of the time of PyTorch's
    return columns, scores.gather(1, columns[:, None])[:, 0]


class Rule(Protocol):
    """Where prototypes belong after the samples of one step on all ranks, which may come in several micro-batches."""

    def start(self, prototypes: Tensor) -> Tensor:
        """What is known before the first samples, with prototypes (K, D)."""
        ...

    def add(self, known: Tensor, x: Tensor, counts: Tensor, winner: Tensor, pull: Pull, progress: float) -> Tensor:
        """What is known after more of them: this rank's samples x (B, D), counts (B,) 1 for those that count and else 0, winner (B,)."""
        ...

    def targets(self, known: Tensor, prototypes: Tensor) -> Tensor:
        """Where prototypes (K, D) belong by then, (K, D)."""
        ...


@dataclass(frozen=True, slots=True)
class BatchRule:
    """Each prototype becomes the mean of all samples, weighted by their winners' pull on it (Kohonen 2001, section 3.6)."""

    def start(self, prototypes: Tensor) -> Tensor:
        """The sum of pulls on each unit and the pulled sum of samples, (K, 1 + D)."""
        return prototypes.new_zeros(len(prototypes), 1 + prototypes.shape[1])

    def add(self, known: Tensor, x: Tensor, counts: Tensor, winner: Tensor, pull: Pull, progress: float) -> Tensor:
        """See `Rule`."""
        units, every = len(known), slice(None)
        rows = torch.cat([counts[:, None], x * counts[:, None]], 1)  # counts and samples share their sums
        if len(x) > units and x.device.type == "cpu":  # on a GPU, index_add_ would add in any order
            winner, rows = torch.arange(units), rows.new_zeros(units, rows.shape[1]).index_add_(0, winner, rows)
        total = rows.new_zeros(units, rows.shape[1])
        size = max(1, TILE // units)
        for winners, part in zip(winner.split(size), rows.split(size), strict=True):
            total.addmm_(pull(winners, every).T, part)
        return known + mean_over_ranks(total)

    def targets(self, known: Tensor, prototypes: Tensor) -> Tensor:
        """See `Rule`. A unit that nothing pulls stays."""
        pulls, samples = known[:, :1], known[:, 1:]
        return torch.where(pulls > 0, samples / pulls.clamp(min=torch.finfo(known.dtype).tiny), prototypes)


@dataclass(frozen=True, slots=True)
class OnlineRule:
    """Each sample in turn moves prototypes by a share of the way towards it, `rate` times its winner's pull (Kohonen 1982).

    The winners of all samples of a step are sought before any of them moves a prototype; with one sample a step it is the textbook's
    rule. The rate falls exponentially to `final_rate`.
    """

    rate: float
    final_rate: float

    def start(self, prototypes: Tensor) -> Tensor:
        """Where prototypes are, (K, D)."""
        return prototypes

    def add(self, known: Tensor, x: Tensor, counts: Tensor, winner: Tensor, pull: Pull, progress: float) -> Tensor:
        """See `Rule`."""
        x, shares, winner = all_gather(x), all_gather(counts) * exponential(self.rate, self.final_rate, progress), all_gather(winner)
        found, size = [], max(1, TILE // len(x))
        for first in range(0, len(known), size):
            units = slice(first, min(first + size, len(known)))
            share = pull(winner, units) * shares[:, None]
            left = (1 - share).flip(0).cumprod(0).flip(0)  # of what a prototype was, after this sample and all later ones
            later = torch.cat([left[1:], torch.ones_like(left[:1])])
            found.append(torch.addmm(left[0][:, None] * known[units], (share * later).T, x))
        return torch.cat(found)

    def targets(self, known: Tensor, prototypes: Tensor) -> Tensor:
        """See `Rule`."""
        return known


Start = Literal["samples", "plane", "random"]


def started(name: Start, x: Tensor, grid: Grid) -> Tensor:
    """First prototypes (units, D) from samples x (N, D), with torch's generator."""
    return _STARTS[name](x, grid)


def _samples(x: Tensor, grid: Grid) -> Tensor:
    """Samples as they come, all again where there are fewer than units; no two quite the same, lest two units win as one."""
    rows = x[torch.arange(grid.units) % len(x)]
    return rows + 1e-3 * x.std(0, correction=0).mean() * torch.randn_like(rows)


def _plane(x: Tensor, grid: Grid) -> Tensor:
    """The grid laid into the plane of the two largest principal components, two standard deviations to each side; a line where x has one."""
    mean, places = x.mean(0), grid.places(torch.arange(grid.units))
    _, singular, directions = torch.linalg.svd(x - mean, full_matrices=False)
    spread = singular[:2, None] / len(x) ** 0.5 * directions[:2]
    middle = (places.amax(0) + places.amin(0)) / 2
    sides = (places - middle) / (places.amax(0) - middle).clamp(min=0.5)
    return mean + 2 * sides[:, : len(spread)] @ spread


def _random(x: Tensor, grid: Grid) -> Tensor:
    """Small numbers, as in the textbook."""
    return 0.01 * torch.randn(grid.units, x.shape[1])


_STARTS: dict[Start, Callable[[Tensor, Grid], Tensor]] = {"samples": _samples, "plane": _plane, "random": _random}
