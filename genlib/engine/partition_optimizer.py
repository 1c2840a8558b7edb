"""The optimizer that DeepSpeed is given: over weights, where DeepSpeed itself has flat tensors in which many of them lie.

DeepSpeed puts zeros where a weight got no gradient, and a flat tensor has one state: momentum and decay would move such a weight, and Adam
would count a step that it did not make. Here every weight has its own state, and without a gradient it stays as it is, as under torch's optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genlib.config import OptimConfig
from genlib.engine.optim import WHOLE, Optimizers, averaged, blank_state, limit_weights, make_optimizer, set_learning_rate
from genlib.engine.whole_optimizer import HeldPiece, WholeOptimizer, WholeWeight


@dataclass(frozen=True, slots=True, eq=False)
class WeightPiece:
    """What a rank holds of a weight, in one of DeepSpeed's flat tensors."""

    name: str
    """The weight's, within its player."""
    weight: nn.Parameter
    offset: int
    """Of the piece in the flattened weight."""
    flat: Tensor
    start: int
    """Of the piece in the flat tensor."""
    values: nn.Parameter
    """(n,), a view of the flat tensor."""

    def gradient(self) -> Tensor:
        """Its part of the flat tensor's."""
        assert self.flat.grad is not None
        return self.flat.grad.narrow(0, self.start, self.values.numel())


@dataclass(frozen=True, slots=True, eq=False)
class PlacedWeight:
    """A weight of the player, whichever ranks hold pieces of it."""

    weight: nn.Parameter
    shape: tuple[int, ...]
    group: int
    """Which of DeepSpeed's flat tensors it lies in, on every rank."""


class PartitionOptimizer(Optimizer):
    """What DeepSpeed takes for its optimizer: torch's over the pieces of weights, and over whole ones where they are needed."""

    def __init__(self, groups: Sequence[dict[str, Any]], config: OptimConfig) -> None:
        self.config = config
        self.group_of = {id(weight): {**group, "params": []} for group in groups for weight in group["params"]}
        super().__init__(groups, {"lr": config.learning_rate})
        self.pieces: list[WeightPiece] = []
        self.flats: list[Tensor] = []
        self.inner: Optimizer | Optimizers | None = None
        self.whole: WholeOptimizer | None = None
        self.groups_of_whole: dict[str, int] = {}
        self.used: set[str] = set()
        """Names of the weights that have a gradient in this step."""
        self.weight_limit = 0.0
        """`Phase.weight_limit` of this step's phase."""

    def divide(self, pieces: Sequence[WeightPiece], flats: Sequence[Tensor], weights: Mapping[str, PlacedWeight], device: torch.device) -> None:
        """Tells where the weights lie, once DeepSpeed has made its flat tensors. A rank may hold none.

        weights: all of them, in the same order on every rank.
        """
        self.flats = list(flats)
        whole = [
            WholeWeight(name, placed.shape, group["name"], group["weight_decay"], placed.group)
            for name, placed in weights.items()
            if (group := self.group_of[id(placed.weight)])["name"] in WHOLE
        ]
        self.groups_of_whole = {one.name: one.group for one in whole}
        self.pieces = [piece for piece in pieces if piece.name not in self.groups_of_whole]
        self.pieces_of_whole = {piece.name: piece for piece in pieces if piece.name in self.groups_of_whole}
        if whole:
            held = {piece.name: (piece.offset, piece.values.numel()) for piece in self.pieces_of_whole.values()}
            self.whole = WholeOptimizer(whole, held, self.config, device)
        groups: dict[tuple[str, float], dict[str, Any]] = {}
        for piece in self.pieces:
            group = self.group_of[id(piece.weight)]
            groups.setdefault((group["name"], group["weight_decay"]), {**group, "params": []})["params"].append(piece.values)
        self.inner = make_optimizer([groups[key] for key in sorted(groups)], self.config) if groups else None

    def set_learning_rate(self, value: float) -> None:
        """Of the next steps."""
        for one in (self.inner, self.whole):
            if isinstance(one, WholeOptimizer):
                one.set_learning_rate(value)
            elif one is not None:
                set_learning_rate(one, value)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of what lies in the flat tensors that DeepSpeed's parameter groups have now, from the gradient of each."""
        flats = {id(flat) for group in self.param_groups for flat in group["params"] if flat.grad is not None}
        if self.inner is not None:
            for piece in self.pieces:
                if id(piece.flat) in flats and piece.name in self.used:
                    piece.values.grad = piece.gradient()
            self.inner.step()
            limit_weights((piece.values for piece in self.pieces if id(piece.flat) in flats), self.weight_limit)
            for piece in self.pieces:
                piece.values.grad = None
        if self.whole is not None:
            now = {number for number, flat in enumerate(self.flats) if id(flat) in flats}
            names = {name for name, group in self.groups_of_whole.items() if group in now and name in self.used}
            held = {name: HeldPiece(piece.gradient(), piece.values.data) for name, piece in self.pieces_of_whole.items() if name in names}
            self.whole.step(held, names, self.weight_limit)

    def states(self) -> Iterator[tuple[str, Mapping[str, Tensor], int]]:
        """The optimizer state that this rank keeps: of which weight, and where in it that begins."""
        if self.inner is not None:
            yield from ((piece.name, self.inner.state.get(piece.values, {}), piece.offset) for piece in self.pieces)
        if self.whole is not None:
            yield from ((name, state, 0) for name, state in self.whole.states())

    def averages(self) -> Iterator[tuple[str, int, Tensor]]:
        """Of each piece whose optimizer is one of `AVERAGING`: which weight's it is, where in that it begins, and the average of its values."""
        if self.inner is not None:
            for piece in self.pieces:
                yield piece.name, piece.offset, averaged(piece.values.detach(), self.inner.state.get(piece.values, {}), self.config)

    def restore(self, updates: int, keys: Mapping[str, Collection[str]]) -> None:
        """Makes state as `genlib.engine.optim.blank_state` does, `keys` by a weight's name."""
        for piece in self.pieces if self.inner is not None else ():
            self.inner.state[piece.values] = blank_state(self.inner, piece.values, updates, keys.get(piece.name, ()))  # type: ignore[union-attr]
        if self.whole is not None:
            self.whole.restore(updates, keys)


def leaves(loss: Tensor) -> set[int]:
    """`id` of every tensor that a backward from the loss gives a gradient."""
    found, seen, todo = set(), {loss.grad_fn}, [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None:
            continue
        if type(node).__name__ == "AccumulateGrad":
            found.add(id(node.variable))  # type: ignore[attr-defined]
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return found
