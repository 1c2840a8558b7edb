"""Restricted Boltzmann machines against their definition, all states of small ones written out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.functional import gibbs
from genlib.functional.gibbs import BernoulliUnits, Draw, GaussianUnits, RBMParams
from genlib.functional.partition import states

D, H = 6, 4


def rbm(visible: int = D, hidden: int = H, units: gibbs.Units | None = None, *, seed: int = 0, scale: float = 1.0) -> RBMParams:
    draws = torch.Generator().manual_seed(seed)
    tensors = (torch.randn(*shape, generator=draws, dtype=torch.float64) * scale for shape in ((visible, hidden), (visible,), (hidden,)))
    return RBMParams(units or BernoulliUnits(), *tensors)


def all_states(count: int) -> Tensor:
    return states(0, 2**count, count, torch.zeros((), dtype=torch.float64))


def joint(m: RBMParams) -> tuple[Tensor, Tensor, Tensor]:
    """All v, all h, and p(v, h) = exp(-E) / Z as a table (2**D, 2**H), from the sums over single units of the textbook."""
    v, h = all_states(m.weight.shape[0]), all_states(m.weight.shape[1])
    energy = -sum(m.visible[i] * v[:, i, None] for i in range(v.shape[1])) - sum(m.hidden[j] * h[None, :, j] for j in range(h.shape[1]))
    energy = energy - sum(m.weight[i, j] * v[:, i, None] * h[None, :, j] for i in range(v.shape[1]) for j in range(h.shape[1]))
    return v, h, (-energy).flatten().softmax(0).view(len(v), len(h))


def test_energy_is_the_formula() -> None:
    m = rbm()
    v, h, p = joint(m)
    for row in (0, 5, 41, 63):
        ours = m.energy(v[row].expand(len(h), -1), h)
        torch.testing.assert_close(ours - ours[0], -(p[row] / p[row, 0]).log())
    one = m.energy(v[41:42], h[11:12])
    by_hand = -(m.visible @ v[41]) - (m.hidden @ h[11]) - v[41] @ m.weight @ h[11]
    torch.testing.assert_close(one[0], by_hand)


def test_conditionals_equal_enumeration() -> None:
    m = rbm()
    v, h, p = joint(m)
    torch.testing.assert_close(m.hidden_chance(v), (p @ h) / p.sum(1, keepdim=True), atol=1e-9, rtol=0)
    torch.testing.assert_close(m.visible_mean(h), (p.T @ v) / p.sum(0)[:, None], atol=1e-9, rtol=0)


def test_conditionals_of_single_precision() -> None:
    m = rbm()
    v, h, p = joint(m)
    single = replace(m, weight=m.weight.float(), visible=m.visible.float(), hidden=m.hidden.float())
    torch.testing.assert_close(single.hidden_chance(v.float()).double(), (p @ h) / p.sum(1, keepdim=True), atol=1e-6, rtol=0)
    torch.testing.assert_close(single.visible_mean(h.float()).double(), (p.T @ v) / p.sum(0)[:, None], atol=1e-6, rtol=0)


def test_free_energies_are_the_marginals() -> None:
    m = rbm()
    v, h, p = joint(m)
    torch.testing.assert_close((-m.free_energy(v)).softmax(0), p.sum(1))
    torch.testing.assert_close((-m.hidden_free_energy(h)).softmax(0), p.sum(0))
    torch.testing.assert_close(m.turned().free_energy(h), m.hidden_free_energy(h))


def test_gaussian_units_have_the_density_of_their_energy() -> None:
    m = rbm(1, 3, GaussianUnits())
    grid = torch.linspace(-15, 15, 20_001, dtype=torch.float64)[:, None]
    h = all_states(3)
    energy = (grid - m.visible).square() / 2 - (h @ m.hidden)[None] - grid * (h @ m.weight.T).T
    torch.testing.assert_close(m.free_energy(grid), -(-energy).logsumexp(1))
    width = (grid[1] - grid[0]).item()
    torch.testing.assert_close(-m.hidden_free_energy(h), (-energy).logsumexp(0) + math.log(width))
    p = (-energy).exp()
    torch.testing.assert_close(m.hidden_chance(grid), p @ h / p.sum(1, keepdim=True))
    torch.testing.assert_close(m.visible_mean(h)[:, 0], (p * grid).sum(0) / p.sum(0))
    draw = Draw(torch.arange(40_000))
    drawn = m.units.sample(torch.full((40_000, 1), 0.7, dtype=torch.float64), draw, "v")
    assert abs(drawn.mean().item() - 0.7) < 0.02
    assert abs(drawn.std().item() - 1.0) < 0.02


def exact_gradient(m: RBMParams, data: Tensor) -> Tensor:
    """Of the mean log-likelihood with respect to W, a and b, one vector, by autograd through the enumerated sum."""
    leaves = [tensor.clone().requires_grad_() for tensor in (m.weight, m.visible, m.hidden)]
    free = RBMParams(m.units, *leaves)
    everything = all_states(m.weight.shape[0])
    likelihood = -free.free_energy(data).mean() - (-free.free_energy(everything)).logsumexp(0)
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(likelihood, leaves)])


def ascent(m: RBMParams, data: Tensor, model: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    share = torch.full((len(data),), 1 / len(data), dtype=data.dtype)
    return -torch.cat([part.flatten() for part in gibbs.contrast((data, m.hidden_chance(data), share), model)])


def test_contrast_with_the_models_own_states_is_the_exact_gradient() -> None:
    m, data = rbm(), all_states(D)[[3, 9, 60, 21]]
    v, _, p = joint(m)
    torch.testing.assert_close(ascent(m, data, (v, m.hidden_chance(v), p.sum(1))), exact_gradient(m, data))


@pytest.mark.parametrize("seed", range(3))
def test_more_gibbs_steps_are_nearer_to_the_exact_gradient(seed: int) -> None:
    m, data = rbm(8, 5, seed=seed, scale=1.5), all_states(8)[[3, 9, 60, 21, 200, 170]]
    many = data.repeat(5000, 1)
    cosines = []
    for steps in (1, 2, 25):
        v, h = gibbs.gibbs(m, m.hidden_chance(many), steps, Draw(torch.arange(len(many)), seed))
        ours = ascent(m, data, (v, h, torch.full((len(v),), 1 / len(v), dtype=v.dtype)))
        cosines.append(F.cosine_similarity(ours, exact_gradient(m, data), dim=0).item())
    assert cosines[0] < cosines[1] < cosines[2], cosines
    assert cosines[2] > 0.98, cosines


@pytest.mark.parametrize("seed", range(3))
def test_long_chains_have_the_machines_marginals(seed: int) -> None:
    m = rbm(seed=seed)
    v, h, p = joint(m)
    start = torch.full((20_000, H), 0.5, dtype=torch.float64)
    sample, chance = gibbs.gibbs(m, start, 100, Draw(torch.arange(20_000), seed))
    assert (sample.mean(0) - p.sum(1) @ v).abs().max() < 0.02
    assert (chance.mean(0) - p.sum(0) @ h).abs().max() < 0.02
    both = sample.T @ chance / len(sample)
    assert (both - v.T @ p @ h).abs().max() < 0.02


def test_what_a_row_draws_depends_on_its_position_alone() -> None:
    m, position = rbm(), torch.tensor([5, 700, 2**40])
    chance = torch.full((3, H), 0.5, dtype=torch.float64)
    together, _ = gibbs.gibbs(m, chance, 7, Draw(position, 3, "x "))
    for row in range(3):
        alone, _ = gibbs.gibbs(m, chance[row : row + 1], 7, Draw(position[row : row + 1], 3, "x "))
        assert torch.equal(alone[0], together[row])
    again, _ = gibbs.gibbs(m, chance, 7, Draw(position, 4, "x "))
    assert not torch.equal(again, together)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_coins_have_their_chances(count: int) -> None:
    chance = torch.linspace(0, 1, count + 1)[1:] if count > 1 else torch.tensor([0.3])
    drawn = Draw(torch.arange(50_000)).coins(chance.expand(50_000, -1), "coins")
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert (drawn.mean(0) - chance).abs().max() < 0.011  # five standard errors
    assert drawn[:, chance == 1].all()
    assert not Draw(torch.arange(1000)).coins(torch.zeros(1000, count), "coins").any()
    if count == 64:
        assert (drawn.T.corrcoef().nan_to_num() - torch.eye(64))[:63, :63].abs().max() < 0.025


def test_pseudo_likelihood_is_the_sum_of_conditionals() -> None:
    m = rbm()
    v, _, p = joint(m)
    p_v, all_units = p.sum(1), torch.arange(D).expand(len(v), -1)
    expected = torch.zeros(len(v), dtype=torch.float64)
    for i in range(D):
        other = torch.arange(len(v)) ^ (1 << i)  # the state with unit i turned over
        expected += (p_v / (p_v + p_v[other])).log()
    torch.testing.assert_close(gibbs.pseudo_likelihood(m, v, all_units), expected)
    parts = torch.stack([gibbs.pseudo_likelihood(m, v, all_units[:, i : i + 1]) for i in range(D)])
    torch.testing.assert_close(parts.mean(0), expected)


def test_score_matching_is_the_divergence_of_the_score() -> None:
    m = rbm(3, 5, GaussianUnits())
    v = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def score(one: Tensor) -> Tensor:
        return -torch.func.grad(lambda x: m.free_energy(x[None])[0])(one)

    expected = torch.stack([score(one).square().sum() / 2 + torch.func.jacrev(score)(one).trace() for one in v])
    torch.testing.assert_close(gibbs.score_matching(m, v), expected)


def test_posterior_of_flipped_units_is_bayes_rule() -> None:
    m, noise = rbm(), 0.2
    v, _, p = joint(m)
    noisy = v[37]
    flips = (v - noisy).abs().sum(1)
    expected = p.sum(1) * noise**flips * (1 - noise) ** (D - flips)
    given, scale = gibbs.posterior(m, noisy[None], noise)
    assert scale == 1
    torch.testing.assert_close((-given.free_energy(v)).softmax(0), expected / expected.sum())


def test_posterior_of_gaussian_noise_is_bayes_rule() -> None:
    m, noise, noisy = rbm(1, 3, GaussianUnits()), 0.6, 1.3
    grid = torch.linspace(-15, 15, 20_001, dtype=torch.float64)[:, None]
    expected = (-m.free_energy(grid) - (grid[:, 0] - noisy).square() / (2 * noise**2)).softmax(0)
    given, scale = gibbs.posterior(m, torch.tensor([[noisy]], dtype=torch.float64), noise)
    torch.testing.assert_close((-given.free_energy(grid * scale)).softmax(0), expected)
