"""Losses of two players, one that makes samples and one that tells them from data; per sample, on logits that say "data" where they are high.

Logits are (B, ...): one number a sample, or one a patch, over which the mean is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from genlib import random
from genlib.distributed import mean_over_ranks

TINY = 1e-12
"""Added to the square of a gradient's norm, whose root has no slope at 0."""
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


def saturating_generator(fake: Tensor) -> Tensor:
    """Log-probability that fakes are found out, log(1 - D), nats: the minimax game (Goodfellow et al. 2014, eq. 1). Logits (B, ...) -> (B,).

    Where fakes are found out for sure its gradient vanishes; the non-saturating one's is larger by (1 - D) / D.
    """
    return -_per_sample(F.softplus(fake))


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half the squared distance of data from 1 and of fakes from 0 (Mao et al. 2017, arXiv:1611.04076, eq. 9). Scores (B, ...) -> (B,)."""
    return 0.5 * (_per_sample((real - 1).square()) + _per_sample(fake.square()))


def least_squares_generator(fake: Tensor) -> Tensor:
    """Squared distance of fakes from 1 (Mao et al. 2017; without a half, as in arXiv:1703.10593). Scores (B, ...) -> (B,)."""
    return _per_sample((fake - 1).square())


def noisy_targets(position: Tensor, *, real: bool, smoothing: float, flips: float, seed: int) -> Tensor:
    """What a discriminator is told of samples at positions (B,) int64: probability of being data, (B,) float32.

    Data 1 - smoothing, fakes 0: one-sided label smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4). A share `flips` of both, keyed
    by position, is told the other's label.
    """
    flipped = random.uniform(position, seed=seed, stream=f"flipped labels of {'data' if real else 'fakes'}") < flips
    return (flipped != real).float() * (1 - smoothing)


def targeted_discriminator(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B, ...) with the probability of being data that each sample's target (B,) names, nats -> (B,)."""
    return _per_sample(F.softplus(logits)) - target * _per_sample(logits)


def relativistic(better: Tensor, worse: Tensor) -> Tensor:
    """How far each sample's logit falls short of that of another beside it, nats (Jolicoeur-Martineau 2018, arXiv:1807.00734).

    The discriminator takes data for the better ones, the generator fakes (R3GAN, arXiv:2501.05441, eq. 2). Logits (B, ...) -> (B,).
    """
    return _per_sample(F.softplus(worse - better))


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """What a critic lowers (Arjovsky et al. 2017, arXiv:1701.07875, eq. 2). Scores (B, ...) -> (B,).

    The negative of its mean is, where the critic is the best 1-Lipschitz one, the earth mover's distance of data and fakes.
    """
    return _per_sample(fake) - _per_sample(real)


def wasserstein_generator(fake: Tensor) -> Tensor:
    """What the generator lowers against a critic. Scores (B, ...) -> (B,)."""
    return -_per_sample(fake)


def gradient_norm(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Euclidean norm (B,) of the gradient of all scores' sum with respect to each sample x (B, ...), to be differentiated again.

    It is that of a row's own score where a score depends on its row alone, so the critic may hold no batch normalisation.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return gradient.flatten(1).square().sum(1).add(TINY).sqrt()


def squared_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """Squared length (B,) of the gradient of all logits' sum with respect to each x (B, ...) that they came from, to be differentiated again.

    Half of it times gamma is R1 at data, R2 at fakes (Mescheder et al. 2018, arXiv:1801.04406, eq. 9). A loss of it alone should hold the
    logits times 0 besides, as published code has it: for a bias that the gradient does not know autograd else gives no number, not even 0.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def interpolates(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Points between data and fakes (B, ...), at shares (B,) of the way to the data (Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1)."""
    share = share.view(-1, *[1] * (real.dim() - 1))
    return share * real + (1 - share) * fake


def gradient_penalty(norm: Tensor) -> Tensor:
    """Squared distance (B,) of gradient norms (B,) from 1, to be weighted by lambda = 10 (Gulrajani et al. 2017, eq. 3)."""
    return (norm - 1).square()


def adaptive_weight(main: Tensor, adversarial: Tensor) -> Tensor:
    """The adversarial loss's weight at which both losses pull equally on the generator's last layer (Esser et al. 2021, arXiv:2012.09841, eq. 7).

    Gradients of both losses with respect to that layer's weights, of equal shape -> scalar without gradient.
    """
    return (main.norm() / (adversarial.norm() + STABILISER)).clamp(0, LARGEST_WEIGHT).detach()


def last_layer_gradient(features: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the kernels of a 3x3 convolution from its input and its output's gradient, mean over ranks. (B, in, H, W), (B, out, H, W)."""
    shape = (gradient.shape[1], features.shape[1], 3, 3)
    return mean_over_ranks(conv2d_weight(features.float(), shape, gradient, padding=1))


def with_custom_gradient(value: Tensor, gradient: Tensor, made: Tensor) -> Tensor:
    """The value (B,), whose gradient with respect to `made` (B, ...) is `gradient` of the same shape."""
    carrier = (gradient * made.float()).flatten(1).sum(1)
    return carrier - carrier.detach() + value.detach()
