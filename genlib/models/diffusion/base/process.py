"""The discrete-time diffusion that pixel and latent families share: its configuration, its loss, its use in sampling.

Ho et al. 2020 (arXiv:2006.11239) for the process and the loss, Salimans & Ho 2022 (arXiv:2202.00512) for v, Hang et al. 2023
(arXiv:2303.09556) for min-SNR weights, Lin et al. 2023 (arXiv:2305.08891) for zero terminal SNR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from genlib import random
from genlib.config import Config, limited
from genlib.functional import diffusion
from genlib.functional.diffusion import Schedule
from genlib.functional.samplers import Denoiser, at_times
from genlib.types import Batch, Metrics, Step

Network = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), time (B,) int64, or floating between two) -> what `DiscreteConfig.prediction` says, of x_t's shape."""

_USUAL_BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
_DIFFUSERS_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
_DIFFUSERS_PREDICTION = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscreteConfig(Config):
    """Noise levels, what the network says, and how its error is weighted."""

    beta_schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
    """How noise grows: linear of Ho et al. 2020, scaled_linear of Rombach et al. 2022, cosine of Nichol & Dhariwal 2021."""
    timesteps: int = limited(1000, at_least=2)
    """Noise levels."""
    beta_start: float = limited(0.0, at_least=0, below=1)
    """First beta of linear and scaled_linear; 0 takes the schedule's usual one."""
    beta_end: float = limited(0.0, at_least=0, below=1)
    """Last beta; 0 takes the schedule's usual one."""
    prediction: Literal["epsilon", "v", "x0"] = "epsilon"
    """What the network says: the noise, the velocity alpha noise - sigma x0, or the sample."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that its last level holds no signal; for v and x0."""
    min_snr_gamma: float = limited(0.0, at_least=0)
    """Signal-to-noise ratio above which a level counts no more; 0 counts all levels the same. The paper takes 5."""
    time_spread: float = limited(0.0, at_least=0)
    """Standard deviation of the logit of the times that training draws, which gathers them in the middle; 0 draws all equally."""
    offset_noise: float = limited(0.0, at_least=0)
    """Strength of noise that is constant over a channel, so that pictures may become wholly dark or bright; 0 is off, 0.05 usual."""

    def validate(self) -> None:
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError("zero_terminal_snr leaves no signal at the last step, where epsilon says nothing; set prediction to v or x0")
        if self.beta_schedule == "cosine" and (self.beta_start or self.beta_end):
            raise ValueError("the cosine schedule has no beta_start and beta_end; leave them 0, or take beta_schedule linear")
        if self.beta_schedule != "cosine" and not self.betas[0] < self.betas[1]:
            raise ValueError(f"beta_start {self.betas[0]:g} is not below beta_end {self.betas[1]:g}; noise must grow")

    @property
    def betas(self) -> tuple[float, float]:
        """First and last beta, as they are used; cosine has none and gives linear's, as diffusers writes them."""
        start, end = _USUAL_BETAS.get(self.beta_schedule, _USUAL_BETAS["linear"])
        return self.beta_start or start, self.beta_end or end

    @property
    def levels(self) -> tuple[object, ...]:
        """What the noise levels follow from."""
        return self.beta_schedule, self.timesteps, self.betas, self.zero_terminal_snr

    def schedule(self) -> Schedule:
        """The noise levels; on the CPU, whatever the default device is."""
        with torch.device("cpu"):
            if self.beta_schedule == "cosine":
                made = diffusion.cosine(self.timesteps)
            else:
                made = getattr(diffusion, self.beta_schedule)(self.timesteps, *self.betas)
            return diffusion.zero_terminal_snr(made) if self.zero_terminal_snr else made

    def scheduler_config(self, **options: Any) -> dict[str, Any]:
        """Arguments of a diffusers scheduler that walks the same noise levels; `options` are those of the sampler."""
        start, end = self.betas
        return {
            "num_train_timesteps": self.timesteps,
            "beta_schedule": _DIFFUSERS_BETAS[self.beta_schedule],
            "beta_start": start,
            "beta_end": end,
            "prediction_type": _DIFFUSERS_PREDICTION[self.prediction],
            "rescale_betas_zero_snr": self.zero_terminal_snr,
            **options,
        }


def steps_with_a_time_too_many(levels: int) -> list[int]:
    """Numbers of steps for which diffusers' trailing spacing gives a time more, -1, after the last: numpy.arange(levels, 0, -levels / steps) is one
    longer where the quotient was rounded down. Ours (`genlib.functional.grids.trailing`) has as many times as steps."""
    return [steps for steps in range(1, levels + 1) if math.ceil(levels / (levels / steps)) > steps]


def denoising_loss(
    network: Network,
    x0: Tensor,
    batch: Batch,
    step: Step,
    config: DiscreteConfig,
    schedule: Schedule,
    *,
    times: tuple[float, float] = (0.0, 1.0),
) -> tuple[Tensor, Metrics]:
    """The weighted squared error (B,) of the network on clean samples x0 (B, ...), each at a time and with noise of its own.

    Time and noise are keyed by `batch["position"]` and `step.seed`. `times` restricts the times to that share of the schedule,
    0 being the least noise: a refiner learns (0.0, 0.2). Where errors are weighted, `mse` is logged beside: the error without weights.
    """
    position = batch["position"]
    time, noise = draw(position, x0, config, seed=step.seed, times=times)
    alpha, sigma = schedule.at(time, x0)
    target = diffusion.target(config.prediction, x0, noise, alpha, sigma)
    prediction = network(diffusion.diffuse(x0, noise, alpha, sigma), time)
    error = (prediction.float() - target.float()).square().flatten(1).mean(1)
    if not config.min_snr_gamma:
        return error, {}
    weight = diffusion.min_snr_weight(schedule.snr(time), config.min_snr_gamma, config.prediction)
    return error * weight.to(error), {"mse": error.detach()}


def draw(position: Tensor, x0: Tensor, config: DiscreteConfig, *, seed: int, times: tuple[float, float] = (0.0, 1.0)) -> tuple[Tensor, Tensor]:
    """Times (B,) int64, over a share of the schedule, and noise of x0's shape (B, C, ...), both keyed by position (B,)."""
    first, last = (round(share * config.timesteps) for share in times)
    if not 0 <= first < last <= config.timesteps:
        raise ValueError(f"the times {times} are no share of the schedule's {config.timesteps} steps; give two numbers of [0, 1] that rise")
    if config.time_spread:
        share = diffusion.logit_normal(random.normal(position, seed=seed, stream="diffusion time"), std=config.time_spread)
        time = first + (share * (last - first)).long().clamp(max=last - first - 1)
    else:
        time = first + random.randint(position, last - first, seed=seed, stream="diffusion time")
    noise = random.normal(position, tuple(x0.shape[1:]), seed=seed, stream="diffusion noise").to(x0)
    if config.offset_noise:
        offset = random.normal(position, (x0.shape[1],), seed=seed, stream="offset noise").to(x0)
        noise = diffusion.offset_noise(noise, offset, config.offset_noise)
    return time, noise


def denoiser(network: Network, config: DiscreteConfig, schedule: Schedule) -> Denoiser:
    """What samplers call, from a predicting network: (x_t (B, ...), time of no dimension) -> estimate of x0.

    A floating time lies between two of the schedule's, and so do its levels.
    """

    def estimate(x: Tensor, time: Tensor) -> Tensor:
        times = time.to(x.device).expand(len(x))
        alpha, sigma = _between(schedule, time) if time.is_floating_point() else schedule.at(times, x)
        return diffusion.to_x0(config.prediction, network(x, times).to(x.dtype), x, alpha, sigma)

    return estimate


def _between(schedule: Schedule, time: Tensor) -> tuple[float, float]:
    grid = at_times(schedule, time[None])
    return grid.alpha[0].item(), grid.sigma[0].item()
