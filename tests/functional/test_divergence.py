"""Divergences against torch's distributions and scipy, and bounds on a likelihood that is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor
from torch.distributions import Categorical, LowRankMultivariateNormal, Normal, kl_divergence

from genlib.functional import divergence as ours


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: Tensor, logvar: Tensor) -> Normal:
    return Normal(mean, (logvar / 2).exp())


def test_divergence_and_density_of_gaussians_are_torchs() -> None:
    mean, logvar, other_mean, other_logvar = rows(4, 50, 6).unbind()
    one, other, standard = gaussian(mean, logvar), gaussian(other_mean, other_logvar), Normal(torch.zeros_like(mean), 1.0)
    torch.testing.assert_close(ours.gaussian_kl(mean, logvar), kl_divergence(one, standard), atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.gaussian_kl_between(mean, logvar, other_mean, other_logvar), kl_divergence(one, other), atol=1e-6, rtol=1e-12)
    torch.testing.assert_close(ours.gaussian_log_density(other_mean, mean, logvar), one.log_prob(other_mean), atol=1e-6, rtol=1e-12)


def test_the_textbooks_latent_loss() -> None:
    """-1/2 sum(1 + g - exp(g) - mean^2) with g the log-variance; 0 where both are 0."""
    mean, logvar = rows(2, 50, 6).unbind()
    textbook = -0.5 * (1 + logvar - logvar.exp() - mean.square()).sum(1)
    torch.testing.assert_close(ours.gaussian_kl(mean, logvar).sum(1), textbook, atol=1e-6, rtol=0)
    assert ours.gaussian_kl(torch.zeros(3), torch.zeros(3)).abs().max() == 0


def test_gradients_through_samples_are_those_of_the_mean() -> None:
    """E[z^2] = mean^2 + exp(logvar): its gradients are 2 mean and exp(logvar)."""
    mean, logvar = torch.tensor([0.7, -1.5]).requires_grad_(), torch.tensor([0.4, -0.9]).requires_grad_()
    noise = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0))
    ours.reparameterise(mean, logvar, noise).square().mean(0).sum().backward()
    torch.testing.assert_close(mean.grad, 2 * mean.detach(), rtol=0.02, atol=0)
    torch.testing.assert_close(logvar.grad, logvar.detach().exp(), rtol=0.02, atol=0)


class LinearGaussian:
    """z of two numbers from N(0, 1), x = W z + noise of standard deviation 0.5; with orthogonal columns of W the posterior is of one number each."""

    def __init__(self) -> None:
        self.weight = torch.linalg.qr(rows(5, 2))[0] * torch.tensor([1.5, 0.8], dtype=torch.float64)
        self.variance = 0.25
        self.x = rows(40, 5, seed=1)
        self.exact = LowRankMultivariateNormal(torch.zeros(5).double(), self.weight, torch.full((5,), self.variance).double()).log_prob(self.x)
        precision = 1 + self.weight.square().sum(0) / self.variance
        self.mean, self.logvar = self.x @ self.weight / self.variance / precision, -precision.log().expand(40, 2)

    def log_weights(self, mean: Tensor, logvar: Tensor, count: int) -> Tensor:
        """log p(x, z) / q(z | x) of so many samples of q = N(mean, exp(logvar)), (count, 40)."""
        z = ours.reparameterise(mean, logvar, rows(count, 40, 2, seed=2))
        log_prob = Normal(z @ self.weight.T, self.variance**0.5).log_prob(self.x).sum(2)
        return log_prob + Normal(torch.zeros(2), 1.0).log_prob(z).sum(2) - gaussian(mean, logvar).log_prob(z).sum(2)


def test_the_bound_is_the_likelihood_where_q_is_the_posterior() -> None:
    model = LinearGaussian()
    for count in (1, 7):
        bound = ours.importance_weighted_bound(model.log_weights(model.mean, model.logvar, count))
        torch.testing.assert_close(bound, model.exact, atol=1e-9, rtol=0)


def test_the_bound_lies_below_and_rises_with_samples() -> None:
    """Elsewhere by the divergence of q from the posterior, and more samples close the gap."""
    model = LinearGaussian()
    mean, logvar = model.mean + 0.3, model.logvar + 0.5
    weights = model.log_weights(mean, logvar, 20_000)
    gap = ours.gaussian_kl_between(mean, logvar, model.mean, model.logvar).sum(1)
    torch.testing.assert_close(model.exact - weights.mean(0), gap, atol=0.05, rtol=0)
    bounds = [ours.importance_weighted_bound(weights.view(count, -1, 40)).mean() for count in (1, 5, 50)]
    assert bounds[0] < bounds[1] < bounds[2] < model.exact.mean()
    assert model.exact.mean() - bounds[2] < 0.02


def test_divergences_of_discrete_distributions() -> None:
    p, q = rows(2, 30, 8).softmax(2)
    torch.testing.assert_close(ours.kl_divergence(p, q), kl_divergence(Categorical(p), Categorical(q)))
    torch.testing.assert_close(ours.js_divergence(p, q), ours.js_divergence(q, p))
    assert ours.js_divergence(p, p).abs().max() < 1e-12
    assert (ours.js_divergence(p, q) < math.log(2)).all()


def test_only_the_earth_mover_sees_how_far_apart_disjoint_distributions_lie() -> None:
    """Two uniforms of width 1, so many apart that they share no place."""
    places = torch.arange(800).double() / 100
    first = (places < 1).double() / 100
    for distance in (1.0, 2.0, 5.0):
        second = ((places >= distance) & (places < distance + 1)).double() / 100
        assert ours.kl_divergence(first, second) == math.inf
        assert ours.js_divergence(first, second).item() == pytest.approx(math.log(2), abs=1e-12)
        assert ours.wasserstein_1(places, places, first, second).item() == pytest.approx(distance, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_earth_movers_distance_is_scipys(weighted: bool) -> None:
    x, y = rows(30), rows(45, seed=1) + 0.5
    masses = (rows(30, seed=2).softmax(0), rows(45, seed=3).softmax(0)) if weighted else (None, None)
    expected = wasserstein_distance(x.numpy(), y.numpy(), *(m if m is None else m.numpy() for m in masses))
    assert ours.wasserstein_1(x, y, *masses).item() == pytest.approx(expected, rel=1e-9)
