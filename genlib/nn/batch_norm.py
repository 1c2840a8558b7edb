"""Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) over the samples of all ranks, on any device.

A batch is normalised by its own mean and variance when it is said which rows count, and by the running ones when it is not: a network says
at each call which it means, so that data and fakes are normalised apart and a generated sample depends on its own noise alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genlib.distributed import all_gather


class BatchNorm(nn.Module):
    """(B, features, ...) -> the same shape, each feature with mean 0 and variance 1 over the batch, then scaled and shifted.

    `momentum` is the weight of each new batch in the running mean and variance, which move in train mode and only while the layer itself is
    being trained: a frozen player keeps its own.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """`valid` (B,) bool: rows of which the statistics are, over all ranks; all ranks then call it together. None takes the running ones."""
        if valid is None:
            return _affine(x, self.running_mean, (self.running_var + self.eps).rsqrt(), self.weight, self.bias)
        y, mean, variance, count = _Normalise.apply(x, valid, self.weight, self.bias, self.eps)  # type: ignore[misc]
        if self.training and self.weight.requires_grad:
            self._move(mean, variance * count / (count - 1).clamp(min=1))
        return y

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        """Towards a batch's statistics; not to one that is not finite, whose step the engine skips."""
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(torch.where(new.isfinite(), new, running), self.momentum)


def batch_norms(network: nn.Module) -> list[str]:
    """Names of the network's layers that normalise over the batch, PyTorch's own among them."""
    kinds = BatchNorm | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
    return [name for name, module in network.named_modules() if isinstance(module, kinds)]


class _Normalise(torch.autograd.Function):
    """The batch's statistics are part of the function, so gradients pass through them to every row of every rank."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, valid: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(x, valid)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, valid, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return _affine(x, mean, scale, weight, bias), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, valid, weight, mean, scale, count = ctx.saved_tensors
        slope = slopes[0].float()
        normal = (x.float() - _wide(mean, x)) * _wide(scale, x)
        sums = torch.stack([_sum(slope * normal), _sum(slope)])  # of this rank's rows: what the engine averages
        if not ctx.needs_input_grad[0]:
            return None, None, sums[0], sums[1], None
        by_normal, by_one = all_gather(sums[None]).sum(0) / count
        pull = normal.mul_(_wide(by_normal, x)).add_(_wide(by_one, x)).mul_(_rows(valid, x))
        return torch.sub(slope, pull).mul_(_wide(weight.float() * scale, x)).to(x.dtype), None, sums[0], sums[1], None


def _statistics(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), variance (C,) and number of values () over all ranks, by the parallel rule of Chan, Golub & LeVeque (1979)."""
    values = x.float().flatten(2) if x.dim() > 2 else x.float()[:, :, None]
    local = valid.sum()
    mean = torch.where(valid[:, None], values.mean(2), 0).sum(0) / local.clamp(min=1)
    away = torch.linalg.vector_norm(values - mean[:, None], dim=2).square() / values.shape[2]  # of every row, (B, C)
    scatter = torch.where(valid[:, None], away, 0).sum(0)
    every = all_gather(torch.cat([mean, scatter, local[None].float()])[None])
    means, scatters, numbers = every[:, : len(mean)], every[:, len(mean) : -1], every[:, -1:]
    count = numbers.sum().clamp(min=1)
    mean = (means * numbers).sum(0) / count
    return mean, (scatters.sum(0) + ((means - mean).square() * numbers).sum(0)) / count, count * values.shape[2]


def _affine(x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    slope = weight.float() * scale
    return torch.addcmul(_wide(bias.float() - mean * slope, x), x.float(), _wide(slope, x)).to(x.dtype)


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _rows(valid: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, ...) float32."""
    return valid.float().view(-1, *[1] * (x.dim() - 1))


def _sum(values: Tensor) -> Tensor:
    """(B, C, ...) -> (C,)."""
    return values.sum([dimension for dimension in range(values.dim()) if dimension != 1])
