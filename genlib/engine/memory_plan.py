"""How much memory a training step takes on each device, by part, under each strategy; the formula behind `jobs/train.py --plan`.

Weights, gradients and optimizer state are fp32 everywhere. With P trained elements, N workers and a share S = P / N (Rajbhandari et al.
2020, arXiv:1910.02054), DeepSpeed as `genlib.engine.zero` uses it keeps P weights (stages 1, 2) or 2 S of weights and
gradients (stage 3), the optimizer's tensors of S elements, and buckets; what lives only during the backward pass is followed gradient by
gradient along a trace (`genlib.engine.trace`), in which autocast's bf16 copies of weights count as activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from genlib.config import TrainConfig
from genlib.engine.deepspeed_settings import read_settings
from genlib.engine.frozen import FrozenBytes
from genlib.engine.optim import parameter_groups, state_elements
from genlib.engine.strategy import averaging_players, optim_of
from genlib.engine.trace import FakeTask, Moment, PassTrace
from genlib.engine.zero import Zero3Buffers, bucket_elements, shard_group
from genlib.inference import is_low

FP32, BF16 = 4, 2
PARTS = ("weights", "frozen", "gradients", "optimizer", "EMA", "buckets", "gathered weights", "activations")
TRACED = 512
"""The most samples traced at once: a loss that goes through a batch in pieces has more operations in a larger one."""
STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3")


@dataclass(frozen=True, slots=True)
class Parallelism:
    """A strategy and what of it lies in the host's memory."""

    strategy: str
    offload: str = "none"

    def __str__(self) -> str:
        return self.strategy if self.offload == "none" else f"{self.strategy}, {self.offload} offloaded"


PARALLELISMS = (
    *(Parallelism(name) for name in STRATEGIES),
    Parallelism("zero2", "optimizer"),
    Parallelism("zero3", "optimizer"),
    Parallelism("zero3", "all"),
)
"""All ways to train, from the fastest to the smallest."""


@dataclass(frozen=True, slots=True)
class ModelElements:
    """What of a task does not depend on the batch."""

    elements: dict[str, int]
    """Trained elements of each player."""
    largest: int
    """Elements of the largest trained weight."""
    frozen_bytes: int
    """Frozen weights of its own and buffers, whole on every device."""
    upstream: FrozenBytes
    """Of frozen networks of earlier stages."""
    ahead: bool
    """Whether these are away, as everything is encoded ahead."""
    optimizer_elements: int
    """What the optimizers keep, in numbers of fp32."""
    averaged: int
    """Trained elements of which there is a moving average."""
    saves_average: bool
    """Whether a checkpoint has averaged weights, a moving average or what optimizers have."""
    own: Mapping[str, Any]
    """ZeRO's settings in `train.deepspeed`."""
    bucket_bytes: int = FP32
    """Of ZeRO-3's buckets, of which there is one for each type, per element."""
    sent_bytes: int = FP32
    """The same of ZeRO-1 and 2, which copy a bucket of bf16 to send it."""
    arriving_bytes: int = FP32
    """Per element of what ZeRO-3 gathers, before it is fp32 again."""
    shard_group_size: int = 0
    """See `TrainConfig`."""

    @property
    def trained(self) -> int:
        """Trained elements."""
        return sum(self.elements.values())


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the worst moment of a step: on the device by part, and on the host."""

    parts: dict[str, int]
    host_bytes: int = 0
    save_bytes: int = 0
    """On the host too: the copy from which a checkpoint is written."""

    @property
    def device_bytes(self) -> int:
        """The peak."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """A task, traced at two batch sizes a phase; answers for any other by the line through them."""

    model: ModelElements
    traces: tuple[tuple[PassTrace, PassTrace], ...]
    accumulation: int = 1

    def flops_per_sample(self, accumulation: int = 1) -> float:
        """Operations of a training step for one sample, over all phases; from the larger of the two sizes.

        With so many micro-batches a step, of which a joint phase takes all but one through its networks twice.
        """
        again = 1 - 1 / accumulation
        return sum((large.flops + large.joint * again * large.forward) / large.size / large.every for _, large in self.traces)

    def at(self, parallelism: Parallelism, world: int, micro_batch: int) -> Memory:
        """Memory of a step with `micro_batch` samples a device."""
        layout = Layout(self.model, parallelism, max(1, world), self.accumulation > 1)
        moments = (held for small, large in self.traces for held in layout.moments(line(small, large, micro_batch)))
        each = {"activations": 1, "gradients": FP32, "buckets": layout.bucket_bytes}
        worst = max(moments, key=lambda held: sum(each[part] * count for part, count in held.items()))
        return Memory(layout.parts(**worst), layout.host_bytes, layout.save_bytes)

    def largest_micro_batch(self, parallelism: Parallelism, world: int, device_bytes: float, most: int = 2**20) -> int:
        """The most samples a device can hold at once; 0 where it cannot hold one."""
        low, high = 0, 1
        while high <= most and self.at(parallelism, world, high).device_bytes <= device_bytes:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.at(parallelism, world, middle).device_bytes <= device_bytes else (low, middle)
        return low


def estimate_memory(fake: FakeTask, config: TrainConfig, micro_batch: int) -> MemoryEstimate:
    """Traces every phase of the task: at `micro_batch`, for which the plan is then exact, or at `TRACED` where that is less, and at 2 or 4."""
    players = fake.players.weights
    elements = {player: sum(p.numel() for p in weights.values()) for player, weights in players.items()}
    state = {id(value): value for value in fake.task.state_dict(keep_vars=True).values()}
    everything = sum(value.numel() * value.element_size() for value in state.values())
    upstream = FrozenBytes.of(fake.task)
    model = ModelElements(
        elements,
        max((p.numel() for weights in players.values() for p in weights.values()), default=0),
        everything - FP32 * sum(elements.values()) - upstream.asked - upstream.unasked,
        upstream,
        fake.task.encodes and config.encode == "ahead",
        sum(
            state_elements(group["name"], weight, optim_of(config, player))
            for player, weights in players.items()
            for group in parameter_groups(fake.task, weights, optim_of(config, player))
            for weight in group["params"]
        ),
        sum(elements[player] for player in fake.task.averaged or elements) if config.ema_halflife_samples else 0,
        bool(config.ema_halflife_samples or averaging_players(fake.task, config)),
        read_settings(config.deepspeed).get("zero_optimization", {}),
        *bucket_bytes(fake, config),
        shard_group_size=config.shard_group_size,
    )
    most = min(max(2, micro_batch), TRACED)
    sizes = sorted({most, 2 if most > 2 else 4})
    traces = [tuple(fake.trace(phase, size, config.precision) for size in sizes) for phase in fake.task.phases]
    return MemoryEstimate(model, tuple((small, large) for small, large in traces), config.accumulation)


def bucket_bytes(fake: FakeTask, config: TrainConfig) -> tuple[int, int, int]:
    """`bucket_bytes`, `sent_bytes` and `arriving_bytes`."""
    low = sum(weight.numel() for module in fake.task.modules() if is_low(module) for weight in module.parameters(recurse=False))
    if config.precision == "fp32" or not low:
        return FP32, FP32, FP32
    if config.reduction == "fp32":
        return FP32, FP32, BF16
    others = FP32 * (low < fake.trained)
    return BF16 + others, 2 * BF16 + others, BF16


def line(small: PassTrace, large: PassTrace, size: int) -> PassTrace:
    """The trace at another size: each moment on the line through its bytes at two sizes."""
    if len(small.moments) != len(large.moments):
        return replace(large, moments=tuple(replace(m, live_bytes=m.live_bytes * size // large.size) for m in large.moments))
    share = (size - small.size) / (large.size - small.size)
    pairs = zip(small.moments, large.moments, strict=True)
    moments = [Moment(max(0, round(a.live_bytes + share * (b.live_bytes - a.live_bytes))), a.ready, a.next) for a, b in pairs]
    return replace(small, size=size, moments=tuple(moments))


@dataclass(slots=True)
class Layout:
    """Where a strategy keeps what: elements in `kept` all the time, and what the backward pass adds."""

    model: ModelElements
    parallelism: Parallelism
    world: int
    many: bool
    """Whether gradients of several micro-batches are added up."""
    kept: dict[str, int] = field(init=False)
    host_bytes: int = field(init=False, default=0)
    save_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        trained = self.model.trained
        states = self.model.optimizer_elements
        share = {"ddp": 1, "single": 1}.get(self.parallelism.strategy, self.world)
        self.kept = {"weights": trained, "gradients": 0, "optimizer": states // share, "buckets": 0}
        getattr(self, f"_{self.parallelism.strategy}")(trained, trained // self.world)
        if self.parallelism.offload != "none":
            self._offload(trained // self.world)
        self.kept["EMA"] = self.model.averaged // self.world
        weights = FP32 * trained + self.model.frozen_bytes + self.model.upstream.asked + self.model.upstream.unasked
        self.save_bytes = (weights + (weights if self.model.saves_average else 0) + FP32 * states) // self.world

    def _single(self, trained: int, share: int) -> None:
        pass

    def _ddp(self, trained: int, share: int) -> None:
        self.kept["gradients"] = trained if self.world > 1 else 0  # views into the buckets, which stay

    def _zero1(self, trained: int, share: int) -> None:
        pass

    def _zero2(self, trained: int, share: int) -> None:
        pass

    def _zero3(self, trained: int, share: int) -> None:
        group = shard_group(self.model.shard_group_size, self.world)
        self.kept |= {"weights": share + (trained // group if group else 0), "gradients": share}
        buffers = [Zero3Buffers.of(elements, self.model.largest, self.model.own) for elements in self.model.elements.values()]
        self.kept["buckets"] = sum(one.bucket for one in buffers)
        self.kept["gathered weights"] = min(trained, max(one.live for one in buffers))

    def _offload(self, share: int) -> None:
        moved = ["optimizer", "gradients"] + (["weights"] if self.parallelism.offload == "all" else [])
        self.host_bytes = FP32 * (share + sum(self.kept[part] for part in moved) + (2 * share if self.parallelism.strategy == "zero2" else 0))
        self.kept |= dict.fromkeys(moved, 0)
        self.kept["buckets"] += self.model.largest  # on its way to the host

    @property
    def bucket_bytes(self) -> int:
        """Per element of a bucket."""
        return self.model.bucket_bytes if self.parallelism.strategy == "zero3" else self.model.sent_bytes

    def parts(self, *, activations: int = 0, gradients: int = 0, buckets: int = 0) -> dict[str, int]:
        """Bytes by part, the last two given in elements."""
        elements = {**self.kept, "gradients": self.kept["gradients"] + gradients, "buckets": self.kept["buckets"] + buckets}
        # gathered weights are there as they arrive, and as the layers use them
        each = {"buckets": self.bucket_bytes, "gathered weights": self.model.arriving_bytes + FP32}
        found = {name: each.get(name, FP32) * count for name, count in elements.items()}
        upstream = self.model.upstream.held(self.world, ahead=self.model.ahead, sharded=self.parallelism.strategy == "zero3")
        everything = {**found, "frozen": self.model.frozen_bytes + upstream, "activations": activations}
        return {name: everything[name] for name in PARTS if everything.get(name)}

    def moments(self, trace: PassTrace) -> Iterator[dict[str, int]]:
        """What there is at each moment of a phase beside what is kept, as `parts` takes it."""
        others = self.model.trained - self.model.elements[trace.player]
        if self.parallelism.strategy == "single" or (self.parallelism.strategy == "ddp" and self.world == 1):
            yield from self._whole(trace, others, bucket=0)
        elif self.parallelism.strategy == "ddp":
            yield from ({"activations": moment.live_bytes} for moment in trace.moments)
        elif self.parallelism.strategy == "zero1":
            yield from self._whole(trace, 0, bucket_elements(self.model.elements[trace.player], self.model.own))
        else:
            yield from self._bucketed(trace, self._bucket(trace.player))

    def _bucket(self, player: str) -> int:
        """Elements of the bucket of stages 2 and 3."""
        elements = self.model.elements[player]
        return (
            Zero3Buffers.of(elements, self.model.largest, self.model.own).bucket
            if self.parallelism.strategy == "zero3"
            else bucket_elements(elements, self.model.own)
        )

    def _whole(self, trace: PassTrace, others: int, bucket: int) -> Iterator[dict[str, int]]:
        """Every gradient stays whole to the end; ZeRO-1 then sends them bucket by bucket, a copy of each, and keeps its share."""
        elements = self.model.elements[trace.player]
        for moment in trace.moments:
            ready = elements if self.many else moment.ready
            yield {"activations": moment.live_bytes, "gradients": others + ready, "buckets": bucket if moment.ready else 0}
        yield {"gradients": others + elements, "buckets": max(bucket, elements // self.world) if bucket else 0}

    def _bucketed(self, trace: PassTrace, bucket: int) -> Iterator[dict[str, int]]:
        """Gradients go into a bucket, which is sent when it is full: a copy of it, and of that the share that stays."""
        elements, stage3 = self.model.elements[trace.player], self.parallelism.strategy == "zero3"
        share = 0 if stage3 or self.parallelism.offload != "none" else elements // self.world
        kept = share if self.many else 0
        whole = 0 if stage3 else bucket  # ZeRO-3's is there all the time
        filled, sent = 0, False
        for moment, sends, filled in _fills(trace.moments, bucket):
            yield {"activations": moment.live_bytes, "gradients": kept + share * sent, "buckets": (whole if moment.ready else 0) + filled * sends}
            sent = sent or sends
        yield {"gradients": kept + share, "buckets": whole + filled}
        yield {"gradients": kept + 2 * share if not stage3 else elements // self.world}  # flat, for the optimizer


def _fills(moments: Sequence[Moment], bucket: int) -> Iterator[tuple[Moment, bool, int]]:
    """Each moment, whether the bucket is sent at its end to make room, and the elements in it by then."""
    filled = 0
    for moment in moments:
        sends = filled + moment.next > bucket
        yield moment, sends, filled
        filled = moment.next if sends else filled + moment.next
