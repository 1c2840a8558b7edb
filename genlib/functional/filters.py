"""Low-pass filters for signals of a known sampling rate, and resampling by them (Karras et al. 2021, arXiv:2106.12423, appendix C).

A filter passes frequencies below its cutoff and stops those above cutoff + half-width; between them lies its transition band. Frequencies and
rates are in cycles and samples per unit of length. Pictures stay in the order of memory that they come in: channels last is several times as
fast on a CPU.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DAUBECHIES_2 = tuple((a + b * math.sqrt(3)) / (4 * math.sqrt(2)) for a, b in ((1, -1), (3, -1), (3, 1), (1, 1)))
"""The shortest orthonormal wavelet with two vanishing moments (Daubechies 1988): its low-pass filter, of sum sqrt(2)."""
SYMLET_6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194),
    *(0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
"""The least asymmetric orthonormal wavelet with six vanishing moments (Daubechies 1992, table 6.3): its low-pass filter, of sum sqrt(2)."""


def kaiser(taps: int, half_width: float, rate: float) -> Tensor:
    """Kaiser's window (taps,) float64 of a filter whose transition band is two half-widths wide, by his rules of thumb (Kaiser 1974)."""
    attenuation = 2.285 * (taps - 1) * math.pi * 4 * half_width / rate + 7.95
    above = max(attenuation - 21, 0)
    beta = 0.1102 * (attenuation - 8.7) if attenuation > 50 else 0.5842 * above**0.4 + 0.07886 * above
    return torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)


def kaiser_low_pass(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """The windowed ideal filter along one axis, (taps,) float32 of sum 1."""
    x = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    ideal = torch.sinc(2 * cutoff / rate * x) * kaiser(taps, half_width, rate)
    return (ideal / ideal.sum()).float()


def radial_low_pass(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """The windowed ideal filter of a disc of frequencies, (taps, taps) float32 of sum 1: it treats all directions alike."""
    x = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / rate
    radius = torch.hypot(x[:, None], x).clamp(min=1e-12 / rate)
    window = kaiser(taps, half_width, rate)
    ideal = torch.special.bessel_j1(2 * math.pi * cutoff * radius) / radius * window[:, None] * window
    return (ideal / ideal.sum()).float()


def interpolated(x: Tensor, taps: Tensor, factor: int, before: int, after: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'), H' = H * factor + before + after - K + 1: zeros put between the samples, then both axes filtered by taps (K,).

    `before` and `after` are zeros at the ends, or samples less where they are negative. The mean stays where the taps sum to 1.
    """
    for axis in (3, 2):
        x = _interpolated(x, taps * factor, factor, before, after, axis)
    return x


def _interpolated(x: Tensor, taps: Tensor, factor: int, before: int, after: int, axis: int) -> Tensor:
    # the full convolution is longer by `start` and `stop`; what can be left out at both ends alike is never computed
    start, stop = len(taps) - 1 - before, len(taps) - factor - after
    cut = max(min(start, stop), 0)
    stride, cuts = ((1, factor), (0, cut)) if axis == 3 else ((factor, 1), (cut, 0))
    y = F.conv_transpose2d(x, _along(taps, axis, x), stride=stride, padding=cuts, groups=x.shape[1])
    rest = (cut - start, cut - stop)
    return F.pad(y, rest if axis == 3 else (0, 0, *rest)) if any(rest) else y


def decimated(x: Tensor, taps: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'), H' = (H - K) // factor + 1: each `factor`-th sample of what taps give, (K,) along both axes or (K, K)."""
    if taps.dim() == 2:
        return F.conv2d(x, taps.flip(0, 1).to(x.dtype).expand(x.shape[1], 1, -1, -1), stride=factor, groups=x.shape[1])
    for axis in (3, 2):
        x = F.conv2d(x, _along(taps.flip(0), axis, x), stride=(1, factor) if axis == 3 else (factor, 1), groups=x.shape[1])
    return x


def _along(taps: Tensor, axis: int, x: Tensor) -> Tensor:
    """(K,) as the weight of one filter a channel along an axis."""
    taps = taps.to(x)
    return (taps[None, :] if axis == 3 else taps[:, None]).expand(x.shape[1], 1, -1, -1)


def mirrored(position: Tensor, size: int) -> Tensor:
    """Positions on an axis of samples 0 to size - 1 that goes on as in mirrors at its first and last sample, brought inside. Any shape, any dtype."""
    last = max(size - 1, 1)
    return (torch.remainder(position + last, 2 * last) - last).abs().clamp(max=size - 1)
