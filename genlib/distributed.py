"""The few collectives that tasks and the engine need; every one is the identity in a single process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_alone = 0
"""The thread to which its process is the only one; 0 is none. No thread-local value, which torch.compile cannot look at."""


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process counts for this thread as the only one: for what one rank does while the others wait in their next collective."""
    global _alone
    before, _alone = _alone, threading.get_ident()
    try:
        yield
    finally:
        _alone = before


def _is_alone() -> bool:
    return (_alone != 0 and _alone == threading.get_ident()) or not (dist.is_available() and dist.is_initialized())


def world_size() -> int:
    """Number of processes that train together."""
    return 1 if _is_alone() else dist.get_world_size()


def rank() -> int:
    """This process's number, 0 to world_size() - 1."""
    return 0 if _is_alone() else dist.get_rank()


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


def share(numel: int, rank: int, world: int) -> tuple[int, int]:
    """Elements [low, high) of a flat tensor that belong to the rank: equal shares, the last ones shorter or empty."""
    size = -(-numel // world)
    return min(rank * size, numel), min((rank + 1) * size, numel)


def gather_shard(shard: Tensor, numel: int) -> Tensor:
    """The flat whole (numel,) from each rank's share (see `share`), on every rank."""
    if world_size() == 1:
        return shard
    padded = shard.new_zeros(-(-numel // world_size()))
    padded[: shard.numel()] = shard
    return all_gather(padded)[:numel]


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


class Sideline:
    """The same ranks for one thread beside the one that trains, over connections of their own; all ranks make it together."""

    def __init__(self) -> None:
        self.rank, self.world = rank(), world_size()
        # a rank that is lost is noticed at once; one that is slow is waited for
        self._group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=1)) if self.world > 1 else None

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order; small control values only. RuntimeError where a rank is lost."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def send(self, values: Tensor, to: int) -> None:
        """Sends bytes (n,) to a rank that receives as many."""
        dist.send(values, dst=to, group=self._group)

    def receive(self, values: Tensor, sender: int) -> None:
        """Fills bytes (n,) with those of a rank."""
        dist.recv(values, src=sender, group=self._group)

    def close(self) -> None:
        """All ranks, none of which waits in it."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
