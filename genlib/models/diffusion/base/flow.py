"""Rectified flow (Liu et al. 2022, arXiv:2209.03003): the loss on a network that gives the velocity, and samples by Euler steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genlib.functional.diffusion import interpolate, to_x0_from_velocity, velocity
from genlib.functional.samplers import Grid, OnStep, flow_euler

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), t (B,) in [0, 1], 1 being noise) -> velocity of x_t's shape."""


def flow_loss(network: Velocity, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Squared error (B,) of the velocity on the line from x0 to noise, both (B, ...), at t (B,)."""
    error = network(interpolate(x0, noise, t), t).float() - velocity(x0, noise)
    return error.square().flatten(1).mean(1)


def follow(network: Velocity, noise: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
    """Where the flow takes noise (B, ...) in so many Euler steps of one length."""
    if steps < 1:
        raise ValueError(f"steps is {steps}, but noise becomes a picture in 1 or more")
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    grid = Grid(t[:-1].float(), 1 - t, t)
    return flow_euler(lambda x, time: to_x0_from_velocity(network(x, time.expand(len(x))).to(x.dtype), x, time), noise, grid, on_step=on_step)


def path(network: Velocity, noise: Tensor, steps: int) -> Tensor:
    """All points of `follow`, (steps + 1, B, ...), noise first."""
    points = [noise]
    follow(network, noise, steps, lambda _, x, __: points.append(x.clone()))
    return torch.stack(points)
