"""How far one distribution is from another, and the bounds on a likelihood that are made of it; all in nats.

Kullback-Leibler and Jensen-Shannon divergence compare masses place by place, so they say nothing of how far apart two distributions lie
that share no place; the earth mover's distance does (Arjovsky et al. 2017, arXiv:1701.07875, example 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of N(mean, exp(logvar)) from the standard normal, number by number (Kingma & Welling 2014, arXiv:1312.6114, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def gaussian_kl_between(mean: Tensor, logvar: Tensor, other_mean: Tensor, other_logvar: Tensor) -> Tensor:
    """Divergence of N(mean, exp(logvar)) from N(other_mean, exp(other_logvar)), number by number."""
    spread = (logvar - other_logvar).exp() + (mean - other_mean).square() * (-other_logvar).exp()
    return 0.5 * (spread - 1 + other_logvar - logvar)


def gaussian_log_density(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """log N(x; mean, exp(logvar)), number by number."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mean).square() * (-logvar).exp())


def reparameterise(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A sample of N(mean, exp(logvar)) as a function of standard normal noise, through which gradients reach mean and logvar."""
    return mean + (0.5 * logvar).exp() * noise


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Lower bound on log p(x) from log p(x, z_k) / q(z_k | x) of samples z_k of q (Burda et al. 2016, arXiv:1509.00519, eq. 8).

    (K, ...) -> (...). K = 1 is the evidence lower bound; more samples never loosen it in the mean, and it goes to log p(x).
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Divergence of discrete p from q, probabilities (..., K) that sum to 1 -> (...); infinite where p has mass and q none."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of discrete p and q, (..., K) -> (...): 0 where they are equal, log 2 where they share no place."""
    middle = 0.5 * (p + q)
    return 0.5 * (kl_divergence(p, middle) + kl_divergence(q, middle))


def wasserstein_1(x: Tensor, y: Tensor, p: Tensor | None = None, q: Tensor | None = None) -> Tensor:
    """Earth mover's distance on a line: the area between the distribution functions of masses p (N,) at x (N,) and q (M,) at y (M,).

    Masses sum to 1; None is equal ones, so that x and y may be samples. The places need no order.
    """
    p = torch.full_like(x, 1 / len(x)) if p is None else p
    q = torch.full_like(y, 1 / len(y)) if q is None else q
    places, order = torch.cat([x, y]).sort()
    ahead = torch.cat([p, -q])[order].cumsum(0)
    return (ahead[:-1].abs() * places.diff()).sum()
