"""Ways to pull samples towards a condition, each a function of estimates that a sampler's denoiser makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def classifier_free(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): extrapolates from what the network says without the condition.

    conditional, unconditional (B, ...): the network's words, of any kind, or its estimates of x_0; scale 1 is `conditional`, above 1
    stronger. `rescale` in [0, 1] gives back that share of the contrast guidance adds, by the standard deviation of each sample (Lin et
    al. 2023, arXiv:2305.08891, equations 15 and 16; they use 0.7). -> (B, ...).
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance rescale {rescale} is not a share; use 0 (plain guidance) to 1 (the contrast of the conditional prediction)")
    guided = unconditional.lerp(conditional, scale)
    if rescale == 0:
        return guided
    contrast = _contrast(guided).clamp(min=torch.finfo(guided.dtype).tiny)  # 0 for a network that says nothing yet
    return guided * (1 - rescale + rescale * _contrast(conditional) / contrast)


def _contrast(x: Tensor) -> Tensor:
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def dynamic_threshold(x0: Tensor, percentile: float = 0.995) -> Tensor:
    """Imagen's dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3), for estimates of pictures in [-1, 1].

    In each sample s is that percentile (0 to 1) of absolute values, at least 1; values beyond s are cut, then all are divided by s.
    x0 (B, ...) -> (B, ...) in [-1, 1].
    """
    if not 0 < percentile <= 1:
        raise ValueError(f"percentile {percentile} of absolute values does not exist; use a share above 0 and up to 1, such as 0.995")
    limit = _percentile(x0.flatten(1).abs(), percentile).clamp(min=1).view((-1,) + (1,) * (x0.ndim - 1))
    return x0.clamp(-limit, limit) / limit


def _percentile(x: Tensor, share: float) -> Tensor:
    """Interpolated percentile of each row, (B, N) -> (B,); torch.quantile refuses more than 2**24 numbers."""
    place = share * (x.shape[1] - 1)
    low = int(place)
    ordered = x.sort(dim=1).values
    return ordered[:, low].lerp(ordered[:, min(low + 1, x.shape[1] - 1)], place - low)


def clip_gradient(
    denoise: Callable[[Tensor], Tensor],
    x_t: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    similarity: Callable[[Tensor], Tensor],
    scale: float,
    *,
    through_network: bool = True,
) -> Tensor:
    """Moves the estimate of x_0 up the gradient of a similarity, as classifier guidance does with a log-likelihood (Dhariwal & Nichol
    2021, arXiv:2105.05233, section 4; with CLIP, Crowson 2021, "CLIP guided diffusion").

    denoise(x_t) -> x_0 (B, ...); similarity(x_0) -> (B,), of each sample alone, such as a cosine of CLIP embeddings; alpha, sigma
    numbers or (B, 1, ...). The shift is scale * sigma**2 / alpha * d similarity / d x_t, which for an exact denoiser is
    scale * Cov[x_0 | x_t] d similarity / d x_0. With `through_network` false the network's Jacobian is taken to be alpha, which needs
    no backward pass through it and makes the shift scale * sigma**2 * d similarity / d x_0. At alpha = 0 nothing of x_0 is in x_t: no shift.
    Works under `torch.no_grad`. -> x_0 (B, ...), without a graph.
    """
    with torch.set_grad_enabled(through_network):
        point = x_t.detach().requires_grad_(through_network)
        x0 = denoise(point)
    if not through_network:
        point = x0 = x0.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(similarity(x0).sum(), point)
    sigma, alpha = torch.as_tensor(sigma).to(x_t), torch.as_tensor(alpha).to(x_t)
    step = torch.where(alpha > 0, sigma**2 / alpha, 0.0) if through_network else sigma**2
    return x0.detach() + scale * step * gradient
