"""What a decoder's numbers say of a sample: the distributions p(x | z) of variational autoencoders."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Likelihood(nn.Module):
    """A distribution over samples (B, D), named by as many numbers (B, D)."""

    def log_prob(self, numbers: Tensor, x: Tensor) -> Tensor:
        """Nats (B,)."""
        raise NotImplementedError

    def mean(self, numbers: Tensor) -> Tensor:
        """(B, D)."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Of each pixel to be white, from its logit; a grey pixel in [0, 1] counts as so much of either."""

    def log_prob(self, numbers: Tensor, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(numbers, x, reduction="none").sum(1)

    def mean(self, numbers: Tensor) -> Tensor:
        return numbers.sigmoid()


class Gaussian(Likelihood):
    """Around each number, with one standard deviation for all: a given one, or learnt (Rybkin et al. 2021, arXiv:2006.13202)."""

    def __init__(self, std: float = 0.0) -> None:
        super().__init__()
        log_std = torch.full((1,), math.log(std or 1.0))
        if std:
            self.register_buffer("log_std", log_std)
        else:
            self.log_std = nn.Parameter(log_std)

    def log_prob(self, numbers: Tensor, x: Tensor) -> Tensor:
        log_std = self.log_std.clamp(min=-6)  # as published: beyond it lie steps in a sample's own numbers
        squared = ((numbers - x) * (-log_std).exp()).square().sum(1)
        return -0.5 * squared - x.shape[1] * (log_std + 0.5 * math.log(2 * math.pi))

    def mean(self, numbers: Tensor) -> Tensor:
        return numbers


LIKELIHOODS: dict[str, Callable[[float], Likelihood]] = {"bernoulli": lambda std: Bernoulli(), "gaussian": Gaussian}
"""By the name that a configuration gives, from its standard deviation."""
