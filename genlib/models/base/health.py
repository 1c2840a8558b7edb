"""The collapse monitor of generative adversarial networks: whether what is generated is as manifold as the data.

A generator that has collapsed makes a few things that pass, again and again. One evaluation shows that by the spread of samples, by the share
of the data that has a generated sample near it (coverage of Naeem et al. 2020, arXiv:2002.09797), and where samples have classes by how many
of these are made at all. Both losses say little of it. They, how they swing, the norms of their gradients and the discriminator's accuracy stand
beside; of these the monitor judges the generator's gradient, without which it learns nothing, and if it is asked to, the swing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genlib.config import Config, limited
from genlib.types import Metrics

JUDGED = 2048
"""At most so many samples of an evaluation's batch are compared, which bounds the memory for distances."""
NEIGHBOURS = 5
"""A real sample's neighbourhood reaches to this nearest other one, as in the paper."""
FAIR_SHARE = 0.25
"""A class counts as covered from this share on of what it would get if all were made as often as they occur."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health(Config):
    """When a run is given up."""

    after: float = limited(0.25, at_least=0, at_most=1)
    """Share of the run before which no generator is judged: each one starts from a single blob."""
    least_diversity: float = limited(0.3, at_least=0)
    """Spread of generated samples, as a multiple of the data's, below which they are too alike."""
    least_modes: float = limited(0.375, at_least=0, at_most=1)
    """Share of the classes that generated samples must approach."""
    least_gradient: float = limited(1e-6, at_least=0)
    """Norm of the generator's gradient, a mean of late, below which it learns nothing."""
    most_swing: float = limited(0.0, at_least=0)
    """Standard deviation of a player's loss of late, in the loss's own units, above which the players chase each other in circles; 0 is never."""


PLAYERS = ("discriminator", "generator")
"""Phases whose course is followed."""
SHARE = 0.02
"""Weight of each new update in the running means, which so look back over some 50."""


UPDATES, LOSS, VARIANCE, GRADIENT = range(4)


def follow(row: Tensor, loss: Tensor, grad_norm: float) -> None:
    """Takes an update into running means (4,) of one player: number of updates, loss, its variance, norm of the gradient.

    The first one counts whole, later ones by their share. One that is not finite counts nothing.
    """
    if not loss.isfinite() or not math.isfinite(grad_norm):
        return
    row[UPDATES] += 1
    share = (1 / row[UPDATES]).clamp(min=SHARE)
    away = loss.to(row) - row[LOSS]
    row[LOSS] += share * away
    row[VARIANCE] = (1 - share) * (row[VARIANCE] + share * away.square())
    row[GRADIENT] += share * (grad_norm - row[GRADIENT])


def course_values(course: Tensor) -> Metrics:
    """Scalars by name of such means (2, 4): of each player the `swing`, the standard deviation of its loss of late, and the norm of its `gradient`.

    Nothing is said of a player that was never updated.
    """
    rows = {name: row for name, row in zip(PLAYERS, course, strict=True) if row[UPDATES] > 0}
    swings = {f"{name}_swing": row[VARIANCE].sqrt() for name, row in rows.items()}
    return {**swings, **{f"{name}_gradient": row[GRADIENT] for name, row in rows.items()}}


@torch.no_grad()
def variety(real: Tensor, fake: Tensor, label: Tensor | None = None) -> Metrics:
    """Scalars: `diversity`, `coverage`, and where classes are known `modes` and `modes_approached`.

    real (N, D) and fake (M, D); label (N,) int64 of the real ones.
    """
    real, fake = real[:JUDGED].float(), fake[:JUDGED].float()
    found = {"diversity": spread(fake) / spread(real).clamp(min=1e-12), "coverage": coverage(real, fake)}
    if label is None:
        return found
    covered, approached = modes(real, fake, label[:JUDGED])
    return {**found, "modes": covered, "modes_approached": approached}


def spread(x: Tensor) -> Tensor:
    """Root mean square distance of rows (N, D) from their mean, a scalar."""
    return (x - x.mean(0)).square().sum(1).mean().sqrt()


def coverage(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Share of real samples (N, D) with a generated one (M, D) no farther than their k-th nearest other real one."""
    reach = torch.cdist(real, real).kthvalue(min(k + 1, len(real)), dim=1).values
    return (torch.cdist(real, fake).min(1).values <= reach).float().mean()


def modes(real: Tensor, fake: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the classes of real samples (N, D) that the generated ones (M, D) cover, and that they approach.

    A generated sample approaches the class with the nearest centre, and belongs to it if it is no farther from it than that class's own samples
    reach; either counts from `FAIR_SHARE` of what a class would get. A generator that has not yet learnt much approaches all and covers none,
    one that has collapsed approaches few. Classes of a single sample have no reach and are left out.
    """
    kinds, place, counts = label.unique(return_inverse=True, return_counts=True)
    member = torch.nn.functional.one_hot(place, len(kinds)).to(real)
    centers = member.T @ real / counts[:, None]
    reach = torch.zeros(len(kinds), device=real.device).scatter_reduce_(0, place, (real - centers[place]).norm(dim=1), "amax")
    reach *= ((counts + 1) / (counts - 1).clamp(min=1)).sqrt()  # a centre of n samples lies nearer to these than to others
    distance, nearest = torch.cdist(fake, centers).min(1)
    asked, enough = counts > 1, (FAIR_SHARE * counts * len(fake) / len(real)).clamp(min=1)
    hits = (torch.bincount(some, minlength=len(kinds)) for some in (nearest[distance <= reach[nearest]], nearest))
    covered, approached = (((count >= enough) & asked).sum() / asked.sum().clamp(min=1) for count in hits)
    return covered, approached


def diagnosis(values: Mapping[str, float], limits: Health) -> str:
    """Why it is no use to train on, in a sentence; empty where it is. `values` as of `variety`, and `progress`, the share of the run that is done."""
    if values.get("progress", 1.0) < limits.after:
        return ""
    if values.get("modes_approached", 1.0) < limits.least_modes:
        made = f"{values['modes_approached']:.0%} of the classes, less than {limits.least_modes:.0%}"
    elif values.get("diversity", 1.0) < limits.least_diversity:
        made = f"samples of {values['diversity']:.2f} times the data's spread, less than {limits.least_diversity:g}"
    else:
        return _stuck(values, limits)
    return f"the generator has collapsed: it makes {made}; lower its learning rate, or train the discriminator more often"


def _stuck(values: Mapping[str, float], limits: Health) -> str:
    """The same of players whose samples are manifold."""
    if (norm := values.get("generator_gradient", limits.least_gradient)) < limits.least_gradient:
        return (
            f"the generator learns nothing: the norm of its gradient is {norm:.2g}, less than {limits.least_gradient:g}; lower the discriminator's "
            "learning rate, or smooth its targets"
        )
    for player in PLAYERS:
        if 0 < limits.most_swing < (swing := values.get(f"{player}_swing", 0.0)):
            return (
                f"the players chase each other: the {player}'s loss swings by {swing:.2g}, more than {limits.most_swing:g}; lower both learning "
                "rates, or their momentum"
            )
    return ""
