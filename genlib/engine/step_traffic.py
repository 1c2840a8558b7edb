"""How many bytes a training step sends under each strategy: of weights that ranks gather, and of gradients that they add up.

ddp adds up all gradients once a step. Stages 1 and 2 of ZeRO gather all weights once beside that, and stage 2 adds up in every micro-batch.
Stage 3 does both in every micro-batch, and gathers each layer for the forward pass and again for the backward pass, but for the last layers,
which it keeps where one player trains. With shard groups only a step's first
gather of a weight goes between them. Of several players it may send less than is said here: a backward pass need not go through all of them.
Under precision bf16 ZeRO sends gradients of layers in it, and stage 3 their weights (`genlib.engine.zero`). Optimizers that look at whole weights
have pieces of them and of their gradients sent to one rank, and back (`genlib.engine.whole_optimizer`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from genlib.config import TrainConfig
from genlib.engine.deepspeed_settings import read_settings
from genlib.engine.frozen import FrozenBytes
from genlib.engine.memory_plan import BF16, FP32
from genlib.engine.optim import WHOLE, parameter_groups
from genlib.engine.strategy import optim_of
from genlib.engine.trace import FakeTask
from genlib.engine.zero import Zero3Buffers, shard_group
from genlib.inference import is_low


@dataclass(frozen=True, slots=True)
class StepTraffic:
    """Bytes of whole tensors, as the mean of all steps."""

    gathered: float = 0.0
    reduced: float = 0.0
    everywhere: bool = True
    """Whether every rank gets all that is added up, and not a share of it."""

    gathered_in_groups: float = 0.0
    """The same as gathered, of what no group of ZeRO-3's has to ask another for."""
    exchanged: float = 0.0
    """That go from the ranks that hold pieces to the one that updates the whole, and back."""

    def sent_bytes(self, world: int) -> float:
        """That each of so many ranks sends where they stand in a ring; inside of groups, as between the GPUs of a node, not counted."""
        return (self.gathered + (1 + self.everywhere) * self.reduced + self.exchanged / world) * (world - 1) / world

    def sent_in_groups(self, size: int) -> float:
        """The same inside of groups of so many ranks."""
        return self.gathered_in_groups * (size - 1) / size if size else 0.0


def step_traffic(fake: FakeTask, config: TrainConfig, strategy: str, world: int) -> StepTraffic:
    """Of a step of this task by so many workers."""
    players, zero = fake.players.weights, strategy.startswith("zero")
    low = {id(weight) for module in fake.task.modules() if is_low(module) for weight in module.parameters(recurse=False)} if zero else set()
    low = low if config.precision == "bf16" else set()
    weights = [weight for one in players.values() for weight in one.values()]
    own_settings = read_settings(config.deepspeed).get("zero_optimization", {})
    buffers = Zero3Buffers.of(sum(weight.numel() for weight in weights), max((weight.numel() for weight in weights), default=0), own_settings)
    kept = last(weights, buffers.live) if len(players) == 1 else []
    grouped = bool(shard_group(config.shard_group_size, world))
    gathered = in_groups = reduced = exchanged = 0.0
    for phase in fake.task.phases if strategy != "single" else ():
        own = list(players[phase.player].values())
        passes = config.accumulation if strategy in ("zero2", "zero3") else 1
        reduced += passes * in_bytes(own, low if config.reduction == "bf16" else set()) / phase.every
        if strategy == "zero3":
            again = (config.accumulation - 1) * phase.joint  # their features come first
            once = in_bytes(weights, low)
            all_times = (2 * passes + again) * once - passes * in_bytes(kept, low)
            first = once if grouped else all_times
            gathered += first / phase.every
            in_groups += (all_times - first) / phase.every
        elif zero:
            gathered += in_bytes(own, set()) / phase.every
        if zero:
            groups = parameter_groups(fake.task, players[phase.player], optim_of(config, phase.player))
            exchanged += 3 * in_bytes((weight for group in groups if group["name"] in WHOLE for weight in group["params"]), set()) / phase.every
    if strategy == "zero3" and fake.task.encodes and config.encode != "ahead":
        gathered += config.accumulation * FrozenBytes.of(fake.task).layers
    return StepTraffic(gathered, reduced, strategy != "zero3", in_groups, exchanged)


def in_bytes(weights: Iterable[nn.Parameter], low: set[int]) -> int:
    """Of weights of which those in `low` are sent in bf16."""
    return sum(weight.numel() * (BF16 if id(weight) in low else FP32) for weight in weights)


def last(weights: list[nn.Parameter], elements: int) -> list[nn.Parameter]:
    """As many of the last weights as have no more elements in all."""
    kept: list[nn.Parameter] = []
    for weight in reversed(weights):
        elements -= weight.numel()
        if elements < 0:
            break
        kept.append(weight)
    return kept
