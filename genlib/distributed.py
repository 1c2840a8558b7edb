"""The few collectives that tasks and the engine need; every one is the identity in a single process."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 to world_size() - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        dist.barrier()


def all_gather(values: Tensor) -> Tensor:
    """(B, ...) on each rank -> (world * B, ...) in rank order, without gradient. B must be equal on all ranks."""
    if world_size() == 1:
        return values
    gathered = values.new_empty(world_size() * values.shape[0], *values.shape[1:])
    dist.all_gather_into_tensor(gathered, values.contiguous())
    return gathered


class _GatherWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return all_gather(values)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        return _ReduceScatterSum.apply(grads[0])  # type: ignore[return-value]


class _ReduceScatterSum(torch.autograd.Function):
    """The gradient of a gathering, which is itself differentiable, for losses of gradients."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return reduce_scatter_sum(values)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        return gather_with_grad(grads[0].contiguous())


def gather_with_grad(values: Tensor) -> Tensor:
    """As `all_gather`; the gradient of a row is the sum of what all ranks' losses say of it, as often differentiable as is asked."""
    return values if world_size() == 1 else _GatherWithGrad.apply(values)  # type: ignore[return-value]


def reduce_scatter_sum(values: Tensor) -> Tensor:
    """(world * B, ...) on each rank -> this rank's (B, ...) of the sum over ranks."""
    if world_size() == 1:
        return values
    rows = values.shape[0] // world_size()
    if dist.get_backend() == "gloo":  # gloo has no reduce-scatter on every build
        total = values.contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * rows : (rank() + 1) * rows]
    mine = values.new_empty(rows, *values.shape[1:])
    dist.reduce_scatter_tensor(mine, values.contiguous())
    return mine


def mean_over_ranks(values: Tensor) -> Tensor:
    """Elementwise mean over ranks, detached."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def broadcast_object(value: T, source: int = 0) -> T:
    """The source rank's value, on every rank; small control values only."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]


def all_gather_object(value: T) -> list[T]:
    """Every rank's value, in rank order; small control values only."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
