"""Losses of two players, one that makes samples and one that tells them from data; per sample, on logits that say "data" where they are high.

Logits are (B, ...): one number a sample, or one a patch, over which the mean is taken.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from genlib.distributed import mean_over_ranks

STABILISER, LARGEST_WEIGHT = 1e-4, 1e4  # of VQGAN's adaptive weight, in the published code


def _per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half of how far data falls short of 1 and fakes of -1 (Lim & Ye 2017, arXiv:1705.02894). Logits (B, ...) -> (B,)."""
    return 0.5 * (_per_sample(F.relu(1 - real)) + _per_sample(F.relu(1 + fake)))


def hinge_generator(fake: Tensor) -> Tensor:
    """What the generator lowers against a hinge discriminator. Logits (B, ...) -> (B,)."""
    return -_per_sample(fake)


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of data and fakes (Goodfellow et al. 2014, arXiv:1406.2661), nats. Logits (B, ...) -> (B,)."""
    return _per_sample(F.softplus(-real)) + _per_sample(F.softplus(fake))


def non_saturating_generator(fake: Tensor) -> Tensor:
    """Negative log-probability that fakes pass for data, nats (Goodfellow et al. 2014, section 3). Logits (B, ...) -> (B,)."""
    return _per_sample(F.softplus(-fake))


def adaptive_weight(main: Tensor, adversarial: Tensor) -> Tensor:
    """The adversarial loss's weight at which both losses pull equally on the generator's last layer (Esser et al. 2021, arXiv:2012.09841, eq. 7).

    Gradients of both losses with respect to that layer's weights, of equal shape -> scalar without gradient.
    """
    return (main.norm() / (adversarial.norm() + STABILISER)).clamp(0, LARGEST_WEIGHT).detach()


def last_layer_gradient(features: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the kernels of a 3x3 convolution from its input and its output's gradient, mean over ranks. (B, in, H, W), (B, out, H, W)."""
    shape = (gradient.shape[1], features.shape[1], 3, 3)
    return mean_over_ranks(conv2d_weight(features.float(), shape, gradient, padding=1))


def handed_on(value: Tensor, gradient: Tensor, made: Tensor) -> Tensor:
    """The value (B,), whose gradient with respect to `made` (B, ...) is `gradient` of the same shape."""
    carrier = (gradient * made.float()).flatten(1).sum(1)
    return carrier - carrier.detach() + value.detach()
