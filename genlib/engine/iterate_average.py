"""The averages that schedule-free optimizers keep of the weights which they train, where others have a moving average: they are what is learnt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from genlib.checkpoint import Shard
from genlib.config import TrainConfig
from genlib.engine.strategy import Strategy, averaging_players
from genlib.task import Task


class IterateAverage:
    """Gives out what the optimizers have; it keeps and moves nothing itself."""

    def __init__(self, strategy: Strategy, players: Iterable[str]) -> None:
        self.strategy, self.first_names = strategy, strategy.players.first_names
        self.names = {self.first_names[f"{player}.{name}"] for player in players for name in strategy.players.weights[player]}

    @classmethod
    def of(cls, strategy: Strategy, task: Task, config: TrainConfig) -> IterateAverage | None:
        """None where no optimizer keeps any."""
        players = averaging_players(task, config)
        return cls(strategy, players) if players else None

    def whole_state(self) -> dict[str, Tensor]:
        """As `Strategy.whole_state`, with every weight of which there is an average replaced."""
        with self.strategy.averaged_weights():
            return self.strategy.whole_state()

    def task_shards(self, weights: Iterable[Shard]) -> Iterator[Shard]:
        """This rank's part of the averaged state dict; weights: its part of that of the weights as they are."""
        averaged: dict[str, list[Shard]] = {}
        for shard in self.strategy.averaged_shards():
            # in the host's memory: on the device it would be as much again as the weights take
            averaged.setdefault(shard.name, []).append(Shard(shard.name, shard.offset, shard.tensor.cpu()))
        for shard in weights:
            first = self.first_names.get(shard.name, shard.name)
            if first in self.names:
                yield from (Shard(shard.name, one.offset, one.tensor) for one in averaged.get(first, ()))
            else:
                yield shard
