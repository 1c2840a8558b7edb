"""Optimizers that look at whole weights, where each rank holds pieces of them: each weight has a rank that updates it for all.

That rank alone keeps the weight's optimizer state, gets the pieces of its gradient and of its values, and sends the new values back: by rounds,
in each of which every rank has one weight at most, so that all of them compute at the same time and no more than a weight each is whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genlib import distributed
from genlib.config import OptimConfig
from genlib.engine.optim import blank_state, limit_weights, make_optimizer, set_learning_rate


@dataclass(frozen=True, slots=True, eq=False)
class HeldPiece:
    """What this rank has of a weight, flat: gradient and values, of which the latter are updated."""

    gradient: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class WholeWeight:
    """A weight that one rank updates."""

    name: str
    shape: tuple[int, ...]
    optimizer: str
    weight_decay: float
    group: int
    """DeepSpeed's, whose weights are updated at the same time."""

    @property
    def numel(self) -> int:
        """Its numbers."""
        return torch.Size(self.shape).numel()


class WholeOptimizer:
    """This rank's part; made, and asked to `step`, by all ranks together."""

    def __init__(self, weights: Sequence[WholeWeight], held: Mapping[str, tuple[int, int]], config: OptimConfig, device: torch.device) -> None:
        """`held`: of each weight, where this rank's piece of it begins, and its length."""
        self.rank, self.device = distributed.rank(), device
        self.held = distributed.all_gather_object(dict(held))
        self.owned: dict[int, list[WholeWeight]] = {rank: [] for rank in range(len(self.held))}
        for weight in sorted(weights, key=lambda one: (-one.numel, one.name)):
            least = min(self.owned, key=lambda rank: sum(one.numel for one in self.owned[rank]))
            self.owned[least].append(weight)
        # of a weight's number of axes, which optimizers look at, and without memory
        self.parameters = {one.name: nn.Parameter(torch.empty((0,) * len(one.shape), device=device)) for one in self.owned[self.rank]}
        groups: dict[tuple[str, float], dict[str, Any]] = {}
        for one in self.owned[self.rank]:
            made = {"params": [], "weight_decay": one.weight_decay, "name": one.optimizer}
            groups.setdefault((one.optimizer, one.weight_decay), made)["params"].append(self.parameters[one.name])
        self.optimizer = make_optimizer(list(groups.values()), config) if groups else None

    def set_learning_rate(self, value: float) -> None:
        """Writes it into every group."""
        if self.optimizer is not None:
            set_learning_rate(self.optimizer, value)

    def step(self, pieces: Mapping[str, HeldPiece], names: Collection[str], limit: float) -> None:
        """One update of the weights of those names, which are the same on every rank."""
        lists = [[one for one in owned if one.name in names] for owned in self.owned.values()]
        for together in zip_longest(*lists):
            self._round({rank: one for rank, one in enumerate(together) if one is not None}, pieces, limit)

    def _round(self, weights: Mapping[int, WholeWeight], pieces: Mapping[str, HeldPiece], limit: float) -> None:
        """Updates one weight of each rank that has one left."""
        mine, messages, arrived = weights.get(self.rank), [], {}
        for owner, one in weights.items():
            piece = pieces.get(one.name)
            if owner != self.rank and piece is not None:
                messages.append(dist.P2POp(dist.isend, torch.stack([piece.gradient, piece.values]), owner))
        for rank, (_, length) in self._parts(mine):
            if rank == self.rank:
                arrived[rank] = torch.stack([pieces[mine.name].gradient, pieces[mine.name].values])  # type: ignore[union-attr]
            else:
                arrived[rank] = torch.empty(2, length, device=self.device)
                messages.append(dist.P2POp(dist.irecv, arrived[rank], rank))
        exchanged(messages)
        messages, new = [], self._updated(mine, arrived, limit)
        for owner, one in weights.items():
            if owner != self.rank and (piece := pieces.get(one.name)) is not None:
                messages.append(dist.P2POp(dist.irecv, piece.values, owner))
        for rank, (offset, length) in self._parts(mine):
            assert new is not None
            assert mine is not None
            if rank == self.rank:
                pieces[mine.name].values.copy_(new[offset : offset + length])
            else:
                messages.append(dist.P2POp(dist.isend, new[offset : offset + length], rank))
        exchanged(messages)

    def _parts(self, weight: WholeWeight | None) -> Iterator[tuple[int, tuple[int, int]]]:
        """The ranks that hold a piece of it, and where that lies."""
        if weight is not None:
            yield from ((rank, held[weight.name]) for rank, held in enumerate(self.held) if weight.name in held)

    def _updated(self, weight: WholeWeight | None, arrived: Mapping[int, Tensor], limit: float) -> Tensor | None:
        """The weight's new values, flat, from its pieces."""
        if weight is None or self.optimizer is None:
            return None
        whole = torch.empty(2, weight.numel, device=self.device)
        for rank, (offset, length) in self._parts(weight):
            whole[:, offset : offset + length] = arrived[rank]
        parameter = self.parameters[weight.name]
        empty, parameter.data = parameter.data, whole[1].view(weight.shape)
        parameter.grad = whole[0].view(weight.shape)
        self.optimizer.step()
        limit_weights([parameter], limit)
        new, parameter.grad, parameter.data = parameter.data.reshape(-1), None, empty
        return new

    def states(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """The optimizer state of this rank's weights."""
        if self.optimizer is not None:
            yield from ((name, self.optimizer.state.get(parameter, {})) for name, parameter in self.parameters.items())

    def restore(self, updates: int, keys: Mapping[str, Collection[str]]) -> None:
        """Makes their state as `blank_state` does, `keys` by a weight's name."""
        for one in self.owned[self.rank]:
            parameter = self.parameters[one.name]
            assert self.optimizer is not None
            self.optimizer.state[parameter] = blank_state(self.optimizer, parameter, updates, keys.get(one.name, ()), one.shape)


def exchanged(messages: list[dist.P2POp]) -> None:
    """Sends and gets all of them, and waits."""
    for message in dist.batch_isend_irecv(messages) if messages else ():
        message.wait()
