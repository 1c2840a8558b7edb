"""Optimizer state on disk: every rank writes the pieces it holds, by name and offset, and any number of ranks under any
strategy reads the pieces it needs. safetensors only, so that a state file can hold no code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from genlib.checkpoint import Shard
from genlib.engine.strategy import Strategy


def load_optimizers(strategy: Strategy, files: Iterable[Path], updates: dict[str, int]) -> None:
    """Fills the strategy's live optimizer state from the files of all ranks of the run that saved it."""
    pieces = Pieces(files)
    strategy.restore_optimizers(updates, pieces.keys())
    for shard in strategy.optimizer_shards():
        if shard.name in pieces.where:  # a weight's own count of steps is not in older checkpoints: it is the player's
            pieces.read_into(shard)


class Pieces:
    """Where each piece of each tensor is, over all files."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.handles = [safe_open(path, "pt") for path in sorted(files)]
        self.where: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for i, handle in enumerate(self.handles):
            for entry in handle.keys():  # noqa: SIM118  (a file, which is no dict)
                name, _, offset = entry.rpartition("@")
                self.where[name].append((int(offset), i, entry))

    def keys(self) -> dict[str, list[str]]:
        """Keys of the optimizer state by `player/weight`, e.g. exp_avg."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.where):
            weight, _, key = name.rpartition("/")
            found[weight].append(key)
        return dict(found)

    def read_into(self, shard: Shard) -> None:
        """Copies what the shard covers; whatever cut the pieces have."""
        target, low, high = shard.tensor.view(-1), shard.offset, shard.offset + shard.tensor.numel()
        filled = 0
        for offset, i, entry in self.where[shard.name]:
            piece = self.handles[i].get_slice(entry)
            begin, end = max(low, offset), min(high, offset + piece.get_shape()[0])
            if begin < end:
                values: Tensor = piece[begin - offset : end - offset]
                target[begin - low : end - low].copy_(values)
                filled += end - begin
        if filled != target.numel():
            raise ValueError(
                f"optimizer state of {shard.name} is incomplete: {filled} of {target.numel()} values from {low}; the checkpoint is of another network"
            )
