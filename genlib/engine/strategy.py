"""Strategy: how gradients become weights on this hardware.

A strategy wraps one module only, a `LossModule` whose forward is the loss; there is one LossModule per player, with the other players
frozen. A loss may therefore call any method of any network and take gradients of gradients, under every strategy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from genlib.checkpoint import Shard
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.optim import AVERAGING, COUNTERS
from genlib.engine.sharded_init import ShardedInit
from genlib.engine.stopwatch import Stopwatch
from genlib.inference import check_compiler
from genlib.task import Phase, Task, weighted_mean
from genlib.types import Batch, Metrics, Step


@dataclass(frozen=True, slots=True)
class Update:
    """What one phase did: its metrics (means over this rank's rows), the gradient norm before clipping, and whether weights moved."""

    metrics: Metrics
    grad_norm: float
    applied: bool


def state_shards(name: str, state: Mapping[str, Tensor | None], offset: int = 0, shared: bool = False) -> Iterator[Shard]:
    """Shards `name/key` of a weight's optimizer state, or of that of its piece from `offset` on; counters, as of its steps, belong to the first.

    shared: every rank holds it.
    """
    for key, value in state.items():
        if key in COUNTERS and value is not None:
            yield Shard(f"{name}/{key}", 0, value.view(1), offset == 0, shared)
        elif value is not None:  # momentum that is off
            yield Shard(f"{name}/{key}", offset, value.view(-1), shared=shared)


class LossModule(nn.Module):
    """The one module a strategy wraps: its forward is the task's loss, averaged over the rows of this rank."""

    def __init__(self, task: Task, precision: str, device: torch.device, *, compile: bool = False) -> None:
        super().__init__()
        self.task, self.device = task, device
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16) if precision == "bf16" else nullcontext
        if compile:
            check_compiler(device)
        self.loss = torch.compile(task.loss) if compile else task.loss
        self.features = torch.compile(task.joint_features) if compile else task.joint_features
        self.loss_weights = {phase.name: phase.loss_weight for phase in task.phases}

    def forward(self, phase: str, batch: Batch, step: Step, part: Literal["loss", "features"] = "loss") -> Any:
        """The loss of this rank's rows, a scalar, with metrics; or of a joint phase the features of each row, a batch."""
        with self.autocast():
            if part == "features":
                return self.features(phase, batch, step)
            loss, metrics = self.loss(phase, batch, step)
        return mean_loss(loss, metrics, batch, phase, self.loss_weights[phase])

    def whole(self, phase: str, features: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """A joint phase's loss of each row, from the features of all."""
        with self.autocast():
            return self.task.joint_loss(phase, features, step)


def mean_loss(loss: Tensor, metrics: Metrics, batch: Batch, phase: str, weight: float) -> tuple[Tensor, Metrics]:
    """The mean over the rows of this rank, times the phase's weight; with it the means of what is logged, the loss without the weight.

    ValueError where the loss reaches no weight of the phase.
    """
    loss = weighted_mean(loss.float(), batch)
    if not loss.requires_grad:
        raise ValueError(f"the loss of phase {phase} reaches no weight that the phase trains; there is nothing to learn from it")
    # A loss that is not finite may still have finite gradients: such a factor poisons them, so that every rank skips the step.
    poison = loss.detach() * 0 + weight
    return loss * poison, {"loss": loss.detach(), **{name: weighted_mean(value.detach().float(), batch) for name, value in metrics.items()}}


class Players:
    """Which weights each player trains, noted before any is frozen: what a player itself holds frozen stays so."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.weights = {player: {name: p for name, p in task.player(player).named_parameters() if p.requires_grad} for player in task.players()}
        wanted = {id(p) for weights in self.weights.values() for p in weights.values()}
        self.by_state_name = [(name, p) for name, p in task.named_parameters() if id(p) in wanted]
        """All trained weights with their names in the task's state dict."""
        first = {id(p): name for name, p in task.named_parameters()}
        self.first_names = {name: first[id(p)] for name, p in task.named_parameters(remove_duplicate=False)}
        """Of every name of a weight in the state dict the one that it has in `by_state_name`; tied weights have several."""
        self.current: str | None = None

    def select(self, player: str) -> None:
        """Gradients for this player alone; nothing to do while one player trains on."""
        if self.current == player:
            return
        for name, weights in self.weights.items():
            for parameter in weights.values():
                parameter.requires_grad_(name == player)
        self.current = player


class Strategy(Protocol):
    """What the training loop needs of SingleDevice, DistributedDataParallel and Zero."""

    device: torch.device
    players: Players
    watch: Stopwatch
    """Tells the forward and backward passes and the optimizer of each step apart."""

    @property
    def sharded_init(self) -> ShardedInit | None:
        """Where weights are sharded: inside of this the task is built, prepared and filled, by all ranks together."""
        ...

    def setup(self, task: Task, config: TrainConfig) -> None:
        """Moves the task without its upstream tasks to the device and makes one LossModule and one optimizer per player. Weights are final by now."""
        ...

    def run_phase(self, phase: Phase, micro_batches: Sequence[Batch], step: Step) -> Update:
        """One weight update from the micro-batches of this rank; skipped on all ranks where a loss or gradient is not finite.

        A weight that the loss reaches in none of them, on no rank, stays as it is, and so does its optimizer state: neither momentum nor
        decay moves it, and Adam counts no step of it.
        """
        ...

    def after_step(self, step: Step) -> None:
        """Runs the task's `after_step` where weights are whole."""
        ...

    def whole_weights(self) -> AbstractContextManager[None]:
        """Inside, every weight of the task is whole on every rank, to read."""
        ...

    def whole_state(self) -> dict[str, Tensor]:
        """The task's full state dict as CPU copies on rank 0, {} on other ranks; all ranks call it."""
        ...

    def whole_tensors(self) -> dict[str, Tensor]:
        """The task's full state dict without its values: types and shapes, on the meta device."""
        ...

    def task_shards(self) -> Iterator[Shard]:
        """This rank's live part of the task's full state dict: the shards of all ranks make the whole."""
        ...

    def weight_shards(self) -> list[Shard]:
        """This rank's share of every trained weight: the shards of all ranks, in order, make the whole."""
        ...

    def optimizer_shards(self) -> Iterator[Shard]:
        """This rank's live optimizer state, by `player/weight/key`."""
        ...

    def averaged_shards(self) -> Iterator[Shard]:
        """This rank's part of the averages that optimizers keep of trained weights (`genlib.engine.optim.averaged`), by name in the state dict."""
        ...

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Inside, those weights are their averages; afterwards they are what they were, bit for bit. All ranks enter it."""
        ...

    def restore_optimizers(self, updates: Mapping[str, int], keys: Mapping[str, Collection[str]]) -> None:
        """Makes optimizer state as after `updates[player]` updates with the state tensors `keys[player/weight]`, zero, to be filled.

        A weight without any has not moved yet.
        """
        ...

    @property
    def updates(self) -> dict[str, int]:
        """Updates applied so far, by player."""
        ...


def optim_of(config: TrainConfig, player: str) -> OptimConfig:
    """The optimizer settings of a player."""
    return config.players.get(player, config.optim)


def averaging_players(task: Task, config: TrainConfig) -> list[str]:
    """Those whose optimizer keeps an average of the weights that it trains."""
    return [player for player in task.players() if optim_of(config, player).name in AVERAGING]
