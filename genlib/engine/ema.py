"""Exponential moving average of the weights in fp32, sharded over the ranks under every strategy.

Decay by half-life in samples, with a ramp early in training: Karras et al. 2020 (arXiv:1912.04958), as in their later work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from genlib import checkpoint, distributed
from genlib.checkpoint import Shard
from genlib.engine.strategy import Strategy


class Ema:
    """The moving average of trained weights; each rank keeps and moves its own share.

    halflife_samples: after so many samples a weight's old value counts half. rampup: the half-life is at most this share of the
    samples seen; 0 is no ramp. players: whose weights it follows; None is all.
    """

    def __init__(self, strategy: Strategy, halflife_samples: int, rampup: float, players: Sequence[str] | None = None) -> None:
        self.strategy, self.halflife, self.rampup = strategy, halflife_samples, rampup
        self.prefixes = None if players is None else tuple(f"{player}." for player in players)
        self.first_names = strategy.players.first_names
        self.shards = [shard.tensor.float().clone() for shard in self.followed()]

    def followed(self) -> list[Shard]:
        """This rank's share of the weights that it follows."""
        shards = self.strategy.weight_shards()
        return shards if self.prefixes is None else [shard for shard in shards if shard.name.startswith(self.prefixes)]

    @torch.no_grad()
    def update(self, samples_seen: int, batch_samples: int) -> None:
        """After a step of `batch_samples` samples, the run having seen `samples_seen` with them."""
        halflife = min(self.halflife, samples_seen * self.rampup) if self.rampup else self.halflife
        decay = 0.5 ** (batch_samples / max(halflife, 1e-8))
        if self.shards:
            get_ema_multi_avg_fn(decay)(self.shards, [shard.tensor.float() for shard in self.followed()], None)

    def whole_state(self) -> dict[str, Tensor]:
        """As `Strategy.whole_state`, with every weight that it follows replaced."""
        state, averaged = self.strategy.whole_state(), {}
        shapes = {name: value.shape for name, value in self.strategy.whole_tensors().items()}
        for shard, ema in zip(self.followed(), self.shards, strict=True):
            flat = distributed.gather_shard(ema, shapes[shard.name].numel())
            if distributed.rank() == 0:
                averaged[shard.name] = flat.cpu().view(shapes[shard.name]).clone()
        return {name: averaged.get(self.first_names.get(name, name), value) for name, value in state.items()}

    def task_shards(self, weights: Iterable[Shard]) -> Iterator[Shard]:
        """This rank's part of the averaged state dict; weights: its part of that of the weights as they are."""
        averaged = {shard.name: ema for shard, ema in zip(self.followed(), self.shards, strict=True)}
        for shard in weights:
            ema = averaged.get(self.first_names.get(shard.name, shard.name))
            yield shard if ema is None else Shard(shard.name, shard.offset, ema)

    def load(self, folder: Path) -> None:
        """Takes this rank's share of a checkpoint's average, or of its weights where it has none."""
        shards = [Shard(shard.name, shard.offset, ema) for shard, ema in zip(self.followed(), self.shards, strict=True)]
        checkpoint.fill_shards(shards, folder, ema=True)
