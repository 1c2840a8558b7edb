"""Training in one process on one device; also the frame that data-parallel training fills."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genlib import distributed
from genlib.checkpoint import Shard
from genlib.config import TrainConfig
from genlib.engine.frozen import shard_of, whole_value
from genlib.engine.micro_batches import passes
from genlib.engine.optim import (
    Optimizers,
    averaged,
    blank_state,
    clip_gradients,
    learning_rate,
    limit_weights,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)  # fmt: skip
from genlib.engine.stopwatch import Stopwatch
from genlib.engine.strategy import LossModule, Players, Update, averaging_players, optim_of, state_shards
from genlib.task import Phase, Task
from genlib.types import Batch, Metrics, Step


def mean_metrics(micro: Sequence[Metrics]) -> Metrics:
    """Mean of each value over the micro-batches."""
    if len(micro) == 1:
        return micro[0]
    return {name: torch.stack([m[name] for m in micro]).mean() for name in micro[0]}


class SingleDevice:
    """Strategy of one process."""

    sharded_init = None

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.updates: dict[str, int] = {}
        self.watch = Stopwatch(device)

    def setup(self, task: Task, config: TrainConfig) -> None:
        self.task, self.config = task, config
        nn.Module.to(task, self.device)
        self.bare: dict[str, LossModule] = {}
        self.loss_modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Optimizer | Optimizers] = {}
        self.players = Players(task)
        for player in task.players():
            # before wrapping: DistributedDataParallel notes which weights have gradients when it is made
            self.players.select(player)
            self.bare[player] = LossModule(task, config.precision, self.device, compile=config.compile)
            self.loss_modules[player] = self.wrap(self.bare[player])
            optim = optim_of(config, player)
            self.optimizers[player] = make_optimizer(parameter_groups(task, self.players.weights[player], optim), optim)
            self.updates[player] = 0

    def wrap(self, loss_module: LossModule) -> nn.Module:
        """What the loss is called through."""
        return loss_module

    def without_sync(self, loss_module: nn.Module) -> AbstractContextManager:
        """Inside, backward leaves gradients on this rank."""
        return nullcontext()

    def run_phase(self, phase: Phase, micro_batches: Sequence[Batch], step: Step) -> Update:
        self.players.select(phase.player)
        loss_module, optimizer, optim = self.loss_modules[phase.player], self.optimizers[phase.player], optim_of(self.config, phase.player)
        weights = self.players.weights[phase.player].values()
        for weight in weights:
            weight.grad = None
        metrics = []
        self.watch.start()
        for i, one in enumerate(passes(loss_module, self.bare[phase.player], phase, micro_batches, step)):
            last = i + 1 == len(micro_batches)
            with nullcontext() if last else self.without_sync(loss_module):
                loss, values = one()
                self.watch.lap("forward")
                (loss / len(micro_batches) if len(micro_batches) > 1 else loss).backward()
            self.watch.lap("backward")
            metrics.append(values)
        # backward has averaged the gradients, so every rank sees the same norm and decides the same
        norm = clip_gradients(weights, optim.clip_norm).item()
        applied = norm == norm and norm != float("inf")
        if applied:
            set_learning_rate(optimizer, learning_rate(optim, step.index, step.total))
            optimizer.step()
            limit_weights(weights, phase.weight_limit)
            self.updates[phase.player] += 1
        self.watch.lap("optimizer")
        return Update(mean_metrics(metrics), norm, applied)

    def after_step(self, step: Step) -> None:
        with torch.no_grad():
            self.task.after_step(step)

    def whole_weights(self) -> AbstractContextManager[None]:
        return nullcontext()

    def whole_state(self) -> dict[str, Tensor]:
        state = {}
        for name, value in self.task.state_dict(keep_vars=True).items():
            whole = whole_value(value, self.device)
            if distributed.rank() == 0:
                state[name] = whole.detach().to("cpu", copy=True).contiguous()
        return state

    def whole_tensors(self) -> dict[str, Tensor]:
        return {name: value.to("meta") for name, value in self.task.state_dict().items()}

    def task_shards(self) -> Iterator[Shard]:
        yield from task_shards(self.task, self._share)

    def weight_shards(self) -> list[Shard]:
        return [self._share(name, p) for name, p in self.players.by_state_name]

    @staticmethod
    def _share(name: str, parameter: nn.Parameter) -> Shard:
        return whole_share(name, parameter, distributed.rank(), distributed.world_size())

    def optimizer_shards(self) -> Iterator[Shard]:
        for player, optimizer in self.optimizers.items():
            for name, parameter in self.players.weights[player].items():
                yield from state_shards(f"{player}/{name}", optimizer.state.get(parameter, {}), shared=True)

    def averaged_shards(self) -> Iterator[Shard]:
        for player in averaging_players(self.task, self.config):
            optimizer, optim = self.optimizers[player], optim_of(self.config, player)
            for name, parameter in self.players.weights[player].items():
                share = self._share(self.players.first_names[f"{player}.{name}"], parameter)
                end = share.offset + share.tensor.numel()
                state = {key: value.reshape(-1)[share.offset : end] for key, value in optimizer.state.get(parameter, {}).items() if key == "z"}
                yield Shard(share.name, share.offset, averaged(share.tensor, state, optim))

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        kept = []
        for player in averaging_players(self.task, self.config):
            for weight in self.players.weights[player].values():
                weight.grad = None  # of the last update; it makes room
                kept.append((weight, weight.data))
                weight.data = averaged(weight.data, self.optimizers[player].state.get(weight, {}), optim_of(self.config, player))
        try:
            yield
        finally:
            for weight, values in kept:
                weight.data = values

    def restore_optimizers(self, updates: Mapping[str, int], keys: Mapping[str, Collection[str]]) -> None:
        for player, optimizer in self.optimizers.items():
            self.updates[player] = updates[player]
            for name, parameter in self.players.weights[player].items():
                optimizer.state[parameter] = blank_state(optimizer, parameter, updates[player], keys.get(f"{player}/{name}", ()))


def task_shards(task: Task, share_of: Callable[[str, nn.Parameter], Shard]) -> Iterator[Shard]:
    """This rank's part of the state dict: of weights its share, and of all else, which is whole on every rank, all of it or nothing."""
    for name, value in task.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter):
            yield share_of(name, value)
        elif distributed.rank() == 0:
            yield Shard(name, 0, value.detach().reshape(-1))


def whole_share(name: str, parameter: nn.Parameter, rank: int, world: int) -> Shard:
    """This rank's share of a weight that is whole on every rank, or away."""
    low, high = distributed.share(parameter.numel(), rank, world)
    if (shard := shard_of(parameter)) is not None:
        return Shard(name, low, shard)
    return Shard(name, low, parameter.detach().reshape(-1)[low:high])
