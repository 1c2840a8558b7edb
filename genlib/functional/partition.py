"""The partition function of restricted Boltzmann machines: exactly for small ones, by annealed importance sampling for others."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.functional.gibbs import BernoulliUnits, Draw, RBMParams

MOST_ENUMERATED = 24
"""Most units of a side that are enumerated: 2**24 states of a hundred units on the other side take a minute."""
_TILE_NUMBERS = 2**22


def enumerated_units(rbm: RBMParams) -> int:
    """Units of the side whose states `log_partition` adds up."""
    return _enumerated(rbm).weight.shape[1]


def _enumerated(rbm: RBMParams) -> RBMParams:
    """The RBM so turned that its hidden side is the smaller one, where that can be."""
    visible, hidden = rbm.weight.shape
    return rbm.turned() if visible < hidden and isinstance(rbm.units, BernoulliUnits) else rbm


def states(low: int, high: int, units: int, like: Tensor) -> Tensor:
    """The states low to high - 1 of so many units of 0 and 1, by binary digits: (high - low, units)."""
    number = torch.arange(low, high, device=like.device)
    return (number[:, None] >> torch.arange(units, device=like.device) & 1).to(like.dtype)


def log_partition(rbm: RBMParams) -> float:
    """log Z, exactly: the sum over all states of the smaller side, in tiles. ValueError where it has too many."""
    rbm = _enumerated(rbm)
    visible, units = rbm.weight.shape
    if units > MOST_ENUMERATED:
        raise ValueError(
            f"the exact likelihood adds up 2**{units} states, the most are 2**{MOST_ENUMERATED}; take annealed importance sampling, or fewer units"
        )
    tile, total = max(1, _TILE_NUMBERS // (visible + units)), -math.inf
    for low in range(0, 2**units, tile):
        part = -rbm.hidden_free_energy(states(low, min(low + tile, 2**units), units, rbm.weight)).double()
        total = torch.logaddexp(torch.tensor(total, dtype=torch.float64), part.logsumexp(0).cpu()).item()
    return total


class Estimate(NamedTuple):
    """log Z and the standard error of the mean weight as a share of it, which near 0 is the standard error of log Z."""

    log_z: float
    error: float


def temperatures(count: int, like: Tensor) -> Tensor:
    """Inverse temperatures 0 = b_0 < ... < b_count = 1, denser to the end, as Salakhutdinov & Murray 2008 space them.

    1/29 of the steps lie below 0.5, 8/29 below 0.9 and 20/29 above, as in their 500, 4,000 and 10,000.
    """
    places = torch.tensor([0.0, 500 / 14_500, 4_500 / 14_500, 1.0], dtype=torch.float64)
    values, at = torch.tensor([0.0, 0.5, 0.9, 1.0], dtype=torch.float64), torch.linspace(0, 1, count + 1, dtype=torch.float64)
    piece = torch.searchsorted(places[1:-1].contiguous(), at, right=True)
    share = (at - places[piece]) / (places[piece + 1] - places[piece])
    return torch.lerp(values[piece], values[piece + 1], share).to(like.device)


def annealed_log_partition(rbm: RBMParams, base: Tensor, *, steps: int = 1000, chains: int = 100, seed: int = 0) -> Estimate:
    """log Z by annealed importance sampling (Neal 2001; for RBMs Salakhutdinov & Murray 2008, doi:10.1145/1390156.1390266).

    From the RBM without weights whose visible biases are base (D,), those of independent units that fit the data's means, over
    `steps` temperatures. The mean weight is unbiased for Z, so the estimate of log Z tends to be too low, and a likelihood with it
    too high, where the error is large.
    """
    draw_from = torch.arange(chains, device=rbm.weight.device)
    hidden, rows = rbm.weight.shape[1], base.expand(chains, -1)
    v = rbm.units.sample(rows, Draw(draw_from, seed, "annealing start "), "visible")
    start = rbm.units.log_sum(base[None], base).double().item() + hidden * math.log(2)
    log_weight = torch.zeros(chains, dtype=torch.float64, device=v.device)
    betas = temperatures(steps, v).tolist()
    for step, (before, beta) in enumerate(pairwise(betas)):
        given = rbm.hidden_input(v)
        log_weight += (_free_energy(rbm, base, v, given, before) - _free_energy(rbm, base, v, given, beta)).double()
        draw = Draw(draw_from, seed, f"annealing {step} ")
        h = draw.coins(torch.sigmoid(beta * given), "hidden")
        v = rbm.units.sample(torch.lerp(rows, rbm.visible_input(h), beta), draw, "visible")
    mean = log_weight.logsumexp(0) - math.log(chains)
    return Estimate(start + mean.item(), (log_weight - mean).exp().std().item() / math.sqrt(chains))


def _free_energy(rbm: RBMParams, base: Tensor, v: Tensor, given: Tensor, beta: float) -> Tensor:
    """Free energy of the RBM whose tensors are the share beta of the way from the base's; given: the hidden input of v (B, H)."""
    return rbm.units.energy(v, torch.lerp(base, rbm.visible, beta)) - F.softplus(beta * given).sum(1)
