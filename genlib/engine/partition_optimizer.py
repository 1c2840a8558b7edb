"""The optimizer that DeepSpeed is given: over weights, where DeepSpeed itself has flat tensors in which many of them lie.

DeepSpeed puts zeros where a weight got no gradient, and a flat tensor has one state: momentum and decay would move such a weight, and Adam
would count a step that it did not make. Here every weight has its own state, and without a gradient it stays as it is, as under torch's optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genlib.config import OptimConfig
from genlib.engine.optim import limit_weights, make_optimizer


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


class PartitionOptimizer(Optimizer):
    """What DeepSpeed takes for its optimizer, whose `inner` is torch's, over the pieces of weights."""

    def __init__(self, groups: Sequence[dict[str, Any]], config: OptimConfig) -> None:
        self.config = config
        self.decay = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
        super().__init__(groups, {"lr": config.learning_rate})
        self.pieces: list[WeightPiece] = []
        self.inner: Optimizer | None = None
        self.used: set[str] = set()
        """Names of the weights that have a gradient in this step."""
        self.weight_limit = 0.0
        """`Phase.weight_limit` of this step's phase."""

    def divide(self, pieces: Sequence[WeightPiece]) -> None:
        """Tells where the weights lie, once DeepSpeed has made its flat tensors. A rank may hold none."""
        self.pieces = list(pieces)
        decays = sorted({self.decay[id(piece.weight)] for piece in pieces})
        groups = [{"params": [one.values for one in pieces if self.decay[id(one.weight)] == decay], "weight_decay": decay} for decay in decays]
        self.inner = make_optimizer(groups, self.config) if groups else None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of what lies in the flat tensors that DeepSpeed's parameter groups have now, from the gradient of each."""
        if self.inner is None:
            return
        flats = {id(flat) for group in self.param_groups for flat in group["params"] if flat.grad is not None}
        for piece in self.pieces:
            if id(piece.flat) in flats and piece.name in self.used:
                gradient = piece.flat.grad
                assert gradient is not None
                piece.values.grad = gradient.narrow(0, piece.start, piece.values.numel())
        self.inner.step()
        limit_weights((piece.values for piece in self.pieces if id(piece.flat) in flats), self.weight_limit)
        for piece in self.pieces:
            piece.values.grad = None


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
