"""Matrix products in single precision on processors where PyTorch's own run at half speed.

PyTorch gives them to MKL, which leaves half the width of AMD's AVX-512 units unused: one core of an EPYC was measured at 95 GFLOP/s, and
at 200 with oneDNN, which is part of PyTorch too. Elsewhere, and for small or other matrices, these are PyTorch's own.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_WORTH = 2**21
"""Multiplications of a product from which on oneDNN's fixed cost, some 10 us, pays."""


@cache
def _mkl_is_slow() -> bool:
    facts = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and facts.get("cpu_name", "").startswith("AMD") and facts.get("avx512_f", False)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dim() != 2 or len(x) * weight.numel() < _WORTH:
        return False
    return x.dtype == weight.dtype == torch.float32 and _mkl_is_slow() and not torch.is_autocast_enabled("cpu")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, differentiable any number of times. x (..., I), weight (O, I), bias (O,) -> (..., O)."""
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias) if torch.is_grad_enabled() else _onednn(x, weight, bias)  # type: ignore[return-value]


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, of (M, K) and (K, N)."""
    return linear(a, b.T)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (grad,), (x, weight) = grads, ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(grad, weight) if for_x else None,
            product(grad.T, x) if for_weight else None,
            grad.sum(0) if for_bias else None,
        )
