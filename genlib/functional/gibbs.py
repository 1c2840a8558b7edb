"""Restricted Boltzmann machines as functions of their weights: energies, conditionals, Gibbs chains, likelihoods.

Visible units v (D,), hidden units h (H,) of 0 and 1, weights W (D, H), biases a (D,) and b (H,):

    Bernoulli units:  E(v, h) = -a.v - b.h - v.W.h           (Smolensky 1986)
    Gaussian units:   E(v, h) = |v - a|^2 / 2 - b.h - v.W.h  (Welling et al. 2004; v in units of their noise)

p(v, h) = exp(-E) / Z. Given one side, the units of the other are independent, so a Gibbs chain moves a whole side at once. "Input" is
what a side gets from the other, biases with it: v.W + b and W.h + a. Values are in nats, one a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import random
from genlib.functional import step_callbacks


@dataclass(frozen=True, slots=True)
class Draw:
    """Chance for B rows, keyed: what row i gets depends on position[i] (int64), the seed and the name of the use alone."""

    position: Tensor
    seed: int = 0
    stream: str = ""

    def coins(self, chance: Tensor, name: str) -> Tensor:
        """1 with these chances (B, N) in [0, 1], else 0; in their type."""
        count = chance.shape[1]
        words = random.bits(self.position, (-(-count // 2),), seed=self.seed, stream=self.stream + name)
        halves = words.view(torch.int32)[:, :count].bitwise_right_shift_(8)  # two numbers of 24 bits a word, which float32 holds exactly
        return halves.to(chance.dtype).mul_(2.0**-24).add_(0.5).lt_(chance)  # in place: booleans would cost more than all before

    def normal(self, like: Tensor, name: str) -> Tensor:
        """Standard normal noise of that shape (B, N) and type."""
        return random.normal(self.position, (like.shape[1],), seed=self.seed, stream=self.stream + name).to(like.dtype)


class Units(Protocol):
    """A kind of visible unit. bias: (D,) or (B, D); input: (B, D)."""

    def energy(self, v: Tensor, bias: Tensor) -> Tensor:
        """The energy of v (B, D) without hidden units, (B,)."""
        ...

    def mean(self, input: Tensor) -> Tensor:
        """The mean of v given this input, (B, D)."""
        ...

    def sample(self, input: Tensor, draw: Draw, name: str) -> Tensor:
        """v given this input, (B, D)."""
        ...

    def log_sum(self, input: Tensor, bias: Tensor) -> Tensor:
        """log of the sum or integral over all v of exp(v.(input - bias) - energy(v)), (B,)."""
        ...


class BernoulliUnits:
    """Units of 0 and 1."""

    def energy(self, v: Tensor, bias: Tensor) -> Tensor:
        return -(v * bias).sum(1) if bias.dim() > 1 else -(v @ bias)

    def mean(self, input: Tensor) -> Tensor:
        return torch.sigmoid(input)

    def sample(self, input: Tensor, draw: Draw, name: str) -> Tensor:
        return draw.coins(torch.sigmoid(input), name)

    def log_sum(self, input: Tensor, bias: Tensor) -> Tensor:
        return F.softplus(input).sum(1)


class GaussianUnits:
    """Real units with noise of variance 1."""

    def energy(self, v: Tensor, bias: Tensor) -> Tensor:
        return (v - bias).square().sum(1) / 2

    def mean(self, input: Tensor) -> Tensor:
        return input

    def sample(self, input: Tensor, draw: Draw, name: str) -> Tensor:
        return input + draw.normal(input, name)

    def log_sum(self, input: Tensor, bias: Tensor) -> Tensor:
        return (input.square() - bias.square()).sum(1) / 2 + input.shape[1] / 2 * math.log(2 * math.pi)


@dataclass(frozen=True, slots=True)
class RBMParams:
    """An RBM's tensors: weight (D, H), visible (D,) or one a row (B, D), hidden (H,); `units` are the visible ones."""

    units: Units
    weight: Tensor
    visible: Tensor
    hidden: Tensor

    def hidden_input(self, v: Tensor) -> Tensor:
        """(B, D) -> (B, H)."""
        return F.linear(v, self.weight.T, self.hidden)

    def visible_input(self, h: Tensor) -> Tensor:
        """(B, H) -> (B, D)."""
        own = self.visible.dim() > 1
        return (h @ self.weight.T).add_(self.visible) if own else F.linear(h, self.weight, self.visible)

    def hidden_chance(self, v: Tensor) -> Tensor:
        """p(h = 1 | v) of each hidden unit: (B, D) -> (B, H)."""
        return self.hidden_input(v).sigmoid_()

    def visible_mean(self, h: Tensor) -> Tensor:
        """The mean of p(v | h), for Bernoulli units the chance of 1: (B, H) -> (B, D)."""
        return self.units.mean(self.visible_input(h))

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h) (B,) of v (B, D) and h (B, H)."""
        return self.units.energy(v, self.visible) - h @ self.hidden - ((v @ self.weight) * h).sum(1)

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h)), so that p(v) = exp(-F(v)) / Z: (B, D) -> (B,)."""
        return self.units.energy(v, self.visible) - F.softplus(self.hidden_input(v)).sum(1)

    def hidden_free_energy(self, h: Tensor) -> Tensor:
        """-log of the sum over v of exp(-E(v, h)): (B, H) -> (B,)."""
        return -(h @ self.hidden) - self.units.log_sum(self.visible_input(h), self.visible)

    def turned(self) -> RBMParams:
        """An RBM of Bernoulli units with its sides exchanged; it has the same Z."""
        assert isinstance(self.units, BernoulliUnits), "hidden units are of 0 and 1"
        return RBMParams(self.units, self.weight.T, self.hidden, self.visible)


def gibbs(rbm: RBMParams, chance: Tensor, steps: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """v (B, D) after so many Gibbs steps (at least one) and p(h = 1 | v) (B, H); the first step draws h with `chance` (B, H)."""
    assert steps > 0
    v = chance
    for step in range(steps):
        v = rbm.units.sample(rbm.visible_input(draw.coins(chance, f"hidden {step}")), draw, f"visible {step}")
        chance = rbm.hidden_chance(v)
        step_callbacks.after_step(step, steps, v)
    return v, chance


class Gradient(NamedTuple):
    """The gradient of the negative log-likelihood with respect to an RBM's tensors, or an estimate of it."""

    weight: Tensor
    visible: Tensor
    hidden: Tensor


def contrast(data: tuple[Tensor, Tensor, Tensor], model: tuple[Tensor, Tensor, Tensor]) -> Gradient:
    """E_model - E_data of (v h', v, h): what contrastive divergence descends (Hinton 2002, doi:10.1162/089976602760128018).

    Each side is v (B, D), p(h = 1 | v) (B, H) and the share of each row in the mean (B,); exact where the model's rows are its own.
    """
    (v, h, share), (model_v, model_h, model_share) = data, model
    states, signed = torch.cat([model_v, v]), torch.cat([model_share, -share])
    chances = torch.cat([model_h, h]) * signed[:, None]
    return Gradient(states.T @ chances, signed @ states, chances.sum(0))


def pseudo_likelihood(rbm: RBMParams, v: Tensor, index: Tensor, given: Tensor | None = None) -> Tensor:
    """log pseudo-likelihood (B,) (Besag 1975) of Bernoulli v (B, D): the sum over i of log p(v_i | all others).

    Over the units index (B, K) int64 of each row, times D / K. Chances between 0 and 1 in v count as the mean over both values.
    given: the hidden input of v (B, H), where it is known already.
    """
    w, chosen = rbm.weight[index], v.gather(1, index)
    without = torch.addcmul((rbm.hidden_input(v) if given is None else given)[:, None], chosen[:, :, None], w, value=-1)
    logit = rbm.visible[index] + (F.softplus(without + w) - F.softplus(without)).sum(2)
    return (chosen * logit - F.softplus(logit)).mean(1) * v.shape[1]


def score_matching(rbm: RBMParams, v: Tensor) -> Tensor:
    """Hyvärinen's objective (2005) of Gaussian v (B, D), (B,): |score|^2 / 2 + its divergence.

    Half the squared distance of the RBM's score from that of the data, but for a constant of the data; less is better.
    """
    h = rbm.hidden_chance(v)
    score = rbm.visible_input(h) - v
    return score.square().sum(1) / 2 - v.shape[1] + (h * (1 - h)) @ rbm.weight.square().sum(0)


def posterior(rbm: RBMParams, noisy: Tensor, noise: float | Tensor) -> tuple[RBMParams, float | Tensor]:
    """The RBM given noisy observations (B, D) of v, one a row, and by how much its v is larger.

    noise, for all units or (D,): of Bernoulli units the share that was flipped, in (0, 0.5); of Gaussian ones the standard deviation of
    what was added.
    """
    odds = torch.as_tensor(noise, dtype=noisy.dtype, device=noisy.device)
    if isinstance(rbm.units, BernoulliUnits):
        return replace(rbm, visible=rbm.visible - torch.logit(odds) * (2 * noisy - 1)), 1.0
    precision = odds**-2
    scale = (1 + precision).sqrt()  # v has variance 1 / scale^2, and units have variance 1, so they hold v * scale
    return replace(rbm, weight=rbm.weight / scale.view(-1, 1), visible=(rbm.visible + precision * noisy) / scale), scale
