"""How uneven pictures are in the pattern of a transposed convolution (Odena, Dumoulin & Olah 2016, doi:10.23915/distill.00003).

Where a kernel's size does not divide by its stride, some output pixels are the sum of more terms than their neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor


def checkerboard(images: Tensor, period: int = 2) -> Tensor:
    """Deviation of the mean square over the period x period kinds of pixel, divided by its mean: a scalar, 0 where all are alike.

    images (B, C, H, W), of any range; the outermost pixels are left out, where kernels are cut.
    """
    rows, columns = ((side // period - 2) * period for side in images.shape[-2:])
    if min(rows, columns) < period:
        raise ValueError(f"pictures of {images.shape[-1]} x {images.shape[-2]} pixels are too small for a pattern of {period}; compare larger ones")
    inner = images.float()[..., period : period + rows, period : period + columns]
    squares = (inner - inner.mean()).square().mean((0, 1)).view(rows // period, period, columns // period, period)
    kinds = squares.mean((0, 2))
    return kinds.std(unbiased=False) / kinds.mean().clamp(min=torch.finfo(torch.float32).tiny)
