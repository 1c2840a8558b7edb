"""The forward process of diffusion and of rectified flow, what a network can be taught about it, and how much each noise level counts.

Everywhere x_t = alpha x_0 + sigma noise. A discrete schedule preserves variance, alpha**2 + sigma**2 = 1 (Ho et al. 2020,
arXiv:2006.11239; alpha is the root of their cumulative product, never one step's factor); rectified flow has alpha = 1 - t and
sigma = t (Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206). The signal-to-noise ratio is
snr = alpha**2 / sigma**2. A network says one of three things, which determine each other: the noise ("epsilon"), the data
("x0"), or v = alpha noise - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "x0", "v"]


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Noise levels of T discrete times; time 0 has the least noise."""

    alpha: Tensor
    """(T,) float64, falling."""
    sigma: Tensor
    """(T,) float64, rising; alpha**2 + sigma**2 = 1."""

    def __len__(self) -> int:
        return len(self.alpha)

    def at(self, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Levels of each sample. time (B,) or (), see `levels` -> alpha and sigma (B, 1, ...) in the dtype and on the device of `like` (B, ...)."""
        alpha, sigma = self.levels(time)
        return _beside(alpha, like), _beside(sigma, like)

    def levels(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma (...) float64 at times (...): int64, or floating, between which sigma / alpha is interpolated.

        Between a finite level and pure noise all is pure noise.
        """
        alpha, sigma = self.alpha.to(time.device), self.sigma.to(time.device)
        if not time.is_floating_point():
            return alpha[time], sigma[time]
        low = time.floor().long()
        high, share = (low + 1).clamp(max=len(self) - 1), time.double() - low
        ratio = sigma[low] / alpha[low] * (1 - share) + torch.where(share > 0, sigma[high] / alpha[high] * share, 0.0)
        mixed = (1 + ratio**2).rsqrt()
        return mixed, torch.where(mixed > 0, ratio * mixed, 1.0)

    def snr(self, time: Tensor) -> Tensor:
        """alpha**2 / sigma**2. time (...) int64 -> (...) float32."""
        return ((self.alpha / self.sigma) ** 2).to(time.device)[time].float()

    def to(self, device: torch.device | str) -> Schedule:
        """The same levels on another device, so that `at` copies nothing."""
        return Schedule(self.alpha.to(device), self.sigma.to(device))


def _beside(numbers: Tensor, like: Tensor) -> Tensor:
    """(B,) or () -> (B, 1, ...) or (1, 1, ...) that broadcasts with `like` (B, ...)."""
    return numbers.to(like).view((-1,) + (1,) * (like.ndim - 1))


def _from_betas(betas: Tensor) -> Schedule:
    """Each step keeps 1 - beta of the variance of what was there."""
    log_kept = torch.log1p(-betas).cumsum(0)
    return Schedule((log_kept / 2).exp(), (-torch.expm1(log_kept)).sqrt())


def _check_betas(steps: int, start: float, end: float) -> None:
    if steps < 1:
        raise ValueError(f"a schedule of {steps} steps has no noise level; use 1 or more, such as 1000")
    if not 0 < start <= end < 1:
        raise ValueError(f"the share of noise a step adds goes from {start} to {end}; both lie between 0 and 1, and the first is not above the last")


def linear(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """Betas on a line (Ho et al. 2020)."""
    _check_betas(steps, start, end)
    return _from_betas(torch.linspace(start, end, steps, dtype=torch.float64))


def scaled_linear(steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Schedule:
    """Roots of betas on a line: latent diffusion's (Rombach et al. 2022, arXiv:2112.10752), here with Stable Diffusion's numbers."""
    _check_betas(steps, start, end)
    return _from_betas(torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2)


def cosine(steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """Cumulative signal along a squared cosine (Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17); no beta above `max_beta`."""
    _check_betas(steps, max_beta, max_beta)
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    signal = torch.cos((time + s) / (1 + s) * torch.pi / 2) ** 2
    return _from_betas((1 - signal[1:] / signal[:-1]).clamp(max=max_beta))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Moves alpha so that the last time is pure noise and the first stays (Lin et al. 2023, arXiv:2305.08891, algorithm 1)."""
    first, last = schedule.alpha[0], schedule.alpha[-1]
    if len(schedule) < 2:
        raise ValueError("a schedule of one step cannot end in pure noise and keep its first level; use two steps or more")
    alpha = (schedule.alpha - last) * (first / (first - last))
    return Schedule(alpha, (1 - alpha**2).sqrt())


def check_prediction(kind: Prediction, schedule: Schedule) -> None:
    """ValueError where a network of that kind says nothing about the picture at the schedule's last time."""
    if kind == "epsilon" and schedule.alpha[-1] == 0:
        raise ValueError("prediction epsilon tells nothing of the picture at a terminal SNR of zero; use v or x0, or a schedule that ends above zero")


def diffuse(x0: Tensor, noise: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """A draw of q(x_t | x_0). x0, noise (B, ...); alpha, sigma numbers or (B, 1, ...) -> x_t (B, ...)."""
    return alpha * x0 + sigma * noise


def target(kind: Prediction, x0: Tensor, noise: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """What a network of that kind should say. Shapes as in `diffuse`."""
    if kind == "epsilon":
        return noise
    return x0 if kind == "x0" else alpha * noise - sigma * x0


def to_x0(kind: Prediction, prediction: Tensor, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """The data that a prediction means; for epsilon infinite at alpha = 0. prediction, x_t (B, ...); alpha, sigma as in `diffuse`, VP."""
    if kind == "epsilon":
        return (x_t - sigma * prediction) / alpha
    return prediction if kind == "x0" else alpha * x_t - sigma * prediction


def to_epsilon(kind: Prediction, prediction: Tensor, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """The noise that a prediction means; for x0 infinite at sigma = 0. Arguments as in `to_x0`."""
    if kind == "x0":
        return (x_t - alpha * prediction) / sigma
    return prediction if kind == "epsilon" else sigma * x_t + alpha * prediction


def from_x0(kind: Prediction, x0: Tensor, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """What a network of that kind would have said for this estimate of the data: the inverse of `to_x0`; epsilon and v need sigma > 0."""
    if kind == "x0":
        return x0
    return (x_t - alpha * x0) / sigma if kind == "epsilon" else (alpha * x_t - x0) / sigma


def simple_weight(snr: Tensor, kind: Prediction) -> Tensor:
    """Weight that makes a loss in the network's own kind count as the squared error of epsilon (Ho et al. 2020, equation 14). (B,) -> (B,)."""
    if kind == "epsilon":
        return torch.ones_like(snr)
    return snr if kind == "x0" else snr / (snr + 1)


def min_snr_weight(snr: Tensor, gamma: float, kind: Prediction) -> Tensor:
    """min(snr, gamma) on the squared error of x_0 (Hang et al. 2023, arXiv:2303.09556; gamma 5), for a loss in the network's own kind.

    snr (B,) -> (B,): for epsilon min(snr, gamma) / snr, which is 1 at snr 0; for v min(snr, gamma) / (snr + 1).
    """
    if gamma <= 0:
        raise ValueError(f"min-SNR gamma {gamma} would weigh every sample by nothing; use a number above 0, such as 5")
    if kind == "epsilon":
        return (gamma / snr).clamp(max=1)
    clamped = snr.clamp(max=gamma)
    return clamped if kind == "x0" else clamped / (snr + 1)


def edm_weight(snr: Tensor, kind: Prediction, data_std: float = 0.5) -> Tensor:
    """EDM's weight (Karras et al. 2022, arXiv:2206.00364, table 1): snr + 1 / data_std**2 on the squared error of x_0, so that every
    level starts with an equal loss; given for a loss in the network's own kind. snr (B,) -> (B,); infinite for epsilon at snr 0.
    """
    on_x0 = snr + data_std**-2
    if kind == "epsilon":
        return on_x0 / snr
    return on_x0 if kind == "x0" else on_x0 / (snr + 1)


def offset_noise(noise: Tensor, offset: Tensor, strength: float) -> Tensor:
    """Noise whose channels have means of their own, so that brightness is learnt (Guttenberg 2023, "Diffusion with offset noise").

    noise (B, C, ...), offset (B, C) standard normal; strength about 0.1 -> (B, C, ...).
    """
    return noise + strength * offset.view(offset.shape + (1,) * (noise.ndim - 2))


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Rectified flow's straight line from data (t = 0) to noise (t = 1). x0, noise (B, ...), t (B,) or () -> (B, ...)."""
    t = _beside(t, x0)
    return (1 - t) * x0 + t * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """dx_t / dt along that line: what a rectified flow's network says."""
    return noise - x0


def to_x0_from_velocity(prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Where the line that starts at x_t ends at t = 0. prediction, x_t (B, ...), t (B,) or () in [0, 1] -> (B, ...)."""
    return x_t - _beside(t, x_t) * prediction


def logit_normal(normal: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Times in (0, 1) of which the middle comes most often (Esser et al. 2024, equation 19), from standard normals of any shape."""
    return torch.sigmoid(mean + std * normal)


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Times moved towards noise, as large pictures need (Esser et al. 2024, equation 23); shift = sqrt(pixels / pixels of the base)."""
    if shift <= 0:
        raise ValueError(f"time shift {shift} turns time around; use a number above 0, where 1 leaves times as they are")
    return shift * t / (1 + (shift - 1) * t)


def straightness(path: Tensor, t: Tensor) -> Tensor:
    """How far paths are from straight lines: the mean over time of |velocity - displacement|**2 (Liu et al. 2022, equation 6's S).

    path (N + 1, B, ...) the points at times t (N + 1,) -> (B,), 0 for a straight path at constant speed.
    """
    spans = t.diff().to(path)
    whole = (path[-1] - path[0]) / spans.sum()
    pieces = path.diff(dim=0) / _beside(spans, path)
    deviation = (pieces - whole).square().flatten(2).sum(2)
    return (deviation * (spans / spans.sum())[:, None]).sum(0)
