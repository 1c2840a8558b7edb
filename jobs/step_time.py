"""How long a step, a save and the time between two losses of a node are, on GPUs as the plan's options describe them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from genlib.config import TrainConfig
from genlib.engine.memory_plan import MemoryEstimate, Parallelism
from genlib.engine.step_traffic import StepTraffic
from jobs.run_options import RunOptions


@dataclass(frozen=True, slots=True)
class Fit:
    """The first strategy, from the fastest on, that fits."""

    parallelism: Parallelism
    micro_batch: int
    """Samples a GPU holds at once."""
    accumulation: int
    """Micro-batches a step that this takes."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step on a GPU that waits for no other."""

    computing: float
    sending: float
    overlap: float = 1.0
    """Share of the sending that can go beside computing."""

    @property
    def hidden(self) -> float:
        """Of the sending, what goes beside computing."""
        return min(self.computing, self.overlap * self.sending)

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.computing + self.sending - self.hidden

    @property
    def computes_longer(self) -> bool:
        """Whether computing takes no less than sending."""
        return self.computing >= self.sending


@dataclass(frozen=True, slots=True)
class SaveTime:
    """Seconds of a checkpoint."""

    stall: float
    """For which steps stand still: a GPU's part is copied to its host."""
    write: float
    """From then on: all of it goes to the store."""


def step_time(view: MemoryEstimate, fit: Fit, train: TrainConfig, traffic: StepTraffic, gpus: int, options: RunOptions) -> StepTime:
    """Of a step by so many GPUs, of which the one with the most samples sets the pace."""
    samples = fit.accumulation * math.ceil(train.global_batch / fit.accumulation / gpus)
    computing = samples * view.flops_per_sample(fit.accumulation) / (options.mfu * options.gpu_tflops * 1e12)
    return StepTime(computing, sending_seconds(traffic, train.shard_group_size, gpus, options), options.overlap)


def sending_seconds(traffic: StepTraffic, group: int, gpus: int, options: RunOptions) -> float:
    """Of what a GPU sends in a step, with what it sends inside of shard groups of so many GPUs."""
    inside = traffic.sent_in_groups(group) / link_gb_per_second(group, options)
    return (traffic.sent_bytes(gpus) / link_gb_per_second(gpus, options) + inside) / 1e9


def link_gb_per_second(gpus: int, options: RunOptions) -> float:
    """What a GPU sends to others of so many, a ring of which is as fast as its slowest link."""
    return options.node_gb_per_second if gpus <= options.gpus_per_node else options.interconnect_gb_per_second


def save_time(view: MemoryEstimate, fit: Fit, gpus: int, options: RunOptions) -> SaveTime:
    """Of a checkpoint of so many GPUs."""
    part = view.at(fit.parallelism, gpus, fit.micro_batch).save_bytes
    return SaveTime(part / (options.host_gb_per_second * 1e9), view.model.checkpoint_bytes / (options.store_gb_per_second * 1e9))


def nodes_of(gpus: int, options: RunOptions) -> int:
    """Nodes that have so many GPUs."""
    return math.ceil(gpus / options.gpus_per_node)


def loss_rate(options: RunOptions) -> float:
    """Times a second that a node is lost."""
    return (1 / options.node_failure_hours + options.preemptions_per_hour) / 3600


def seconds_between_losses(gpus: int, options: RunOptions) -> float:
    """From the loss of a node to the next, on average, of all that so many GPUs are on."""
    return 1 / (nodes_of(gpus, options) * loss_rate(options))
