"""How much memory a run takes on each device and on its host, under each strategy; the formula behind `jobs/train.py --plan`.

A step's is told by part. Beside it stand the peaks of birth (from the build to the first step), of a save and of a resume.

Weights, gradients and optimizer state are fp32 everywhere. With P trained elements, N workers and a share S = P / N (Rajbhandari et al.
2020, arXiv:1910.02054), DeepSpeed as `genlib.engine.zero` uses it keeps P weights (stages 1, 2) or 2 S of weights and
gradients (stage 3), the optimizer's tensors of S elements, and buckets; what lives only during the backward pass is followed gradient by
gradient along a trace (`genlib.engine.trace`), in which autocast's bf16 copies of weights count as activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from genlib.config import DataConfig, TrainConfig
from genlib.engine.deepspeed_settings import read_settings
from genlib.engine.frozen import FrozenBytes
from genlib.engine.optim import parameter_groups, state_elements
from genlib.engine.prefetcher import DEPTH
from genlib.engine.sharded_init import WHOLE_ELEMENTS
from genlib.engine.strategy import averaging_players, optim_of
from genlib.engine.trace import FakeTask, Moment, PassTrace
from genlib.engine.zero import Zero3Buffers, bucket_elements, shard_group
from genlib.inference import is_low

FP32, BF16 = 4, 2
PARTS = ("weights", "frozen", "gradients", "optimizer", "EMA", "buckets", "gathered weights", "batches", "activations")
TRACED = 512
"""The most samples traced at once: a loss that goes through a batch in pieces has more operations in a larger one."""
STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3")
_BROADCAST_BYTES = 2 * 250 * 2**20
"""DistributedDataParallel sends rank 0's weights when it is made: in flat copies of 250 MiB, two at a time (torch's `_sync_module_states`)."""


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
    groups: tuple[int, ...] = ()
    """Trained elements of each of the optimizers' parameter groups, in their order: DeepSpeed flattens one after the other."""
    buffer_bytes: int = 0
    """Of `frozen_bytes`, those that are no weights: rank 0 saves them."""
    bucket_bytes: int = FP32
    """Of ZeRO-3's buckets, of which there is one for each type that is sent, per element."""
    staging_bytes: int = FP32
    """The same of ZeRO-1 and 2, whose buckets are fp32 whatever is sent."""
    sent_bytes: int = FP32
    """Per element of what ZeRO-1 and 2 copy out of a bucket to send it: flat, and then in bf16 too where that is sent."""
    arriving_bytes: int = FP32
    """Per element of what ZeRO-3 gathers, before it is fp32 again."""
    shard_group_size: int = 0
    """See `TrainConfig`."""

    @property
    def trained(self) -> int:
        """Trained elements."""
        return sum(self.elements.values())

    @property
    def whole_bytes(self) -> int:
        """The task as it is built: trained and frozen weights and buffers."""
        return FP32 * self.trained + self.all_frozen_bytes

    @property
    def all_frozen_bytes(self) -> int:
        """With those of networks of earlier stages."""
        return self.frozen_bytes + self.upstream.asked + self.upstream.unasked

    @property
    def checkpoint_bytes(self) -> int:
        """Weights, their average where there is one, and optimizer state."""
        return self.whole_bytes * (1 + self.saves_average) + FP32 * self.optimizer_elements


@dataclass(frozen=True, slots=True)
class InUse:
    """Bytes at one moment of a run."""

    device: int
    host: int
    """On the host, with pages of a checkpoint's files, which the system takes back where memory is short."""
    unwritten: int = 0
    """Of the device's, what is set aside and not yet written to: a GPU gives memory for it at once, a CPU's does not."""
    beside_gpu: int = 0
    """More on the host where the device is a GPU: batches and copies on the way to it, and what torch rounds pinned blocks up by."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The most bytes at once in some part of a run."""

    device: int
    host: int
    together: int
    """Where there is no GPU, so that both are the host's memory."""

    @classmethod
    def of(cls, moments: Iterable[InUse]) -> Peak:
        """Over those moments."""
        held = list(moments)
        return cls(
            max(one.device for one in held),
            max(one.host + one.beside_gpu for one in held),
            max(one.device + one.host - one.unwritten for one in held),
        )


@dataclass(frozen=True, slots=True)
class Peaks:
    """Of a whole run."""

    birth: Peak
    """From the build to the first step."""
    step: Peak
    save: Peak
    """While a checkpoint is written and steps go on."""
    resume: Peak
    """From the build to the first step after it, from a checkpoint of as many workers."""


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
    global_batch: int = 1
    cache_bytes: int = 0
    """Most that a worker keeps of decoded samples."""
    buffers: int = 0
    """Micro-batches that its reader processes make ahead."""

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
        worst = max(moments, key=lambda held: sum((FP32 if part == "gradients" else 1) * count for part, count in held.items()))
        # a step's are there together, and those that are read ahead: in the queue, and one that waits for a place in it
        batches = self.batch_bytes(max(micro_batch, -(-self.global_batch // max(1, world))) + (DEPTH + 1) * micro_batch)
        return Memory(layout.parts(**worst, batches=batches), layout.host_bytes, layout.save_bytes)

    def batch_bytes(self, samples: int) -> int:
        """Of so many samples as the loss gets them."""
        return max((large.batch_bytes * samples // large.size for _, large in self.traces), default=0)

    def peaks(self, parallelism: Parallelism, world: int, micro_batch: int) -> Peaks:
        """Of a run whose steps have `micro_batch` samples a device."""
        layout = Layout(self.model, parallelism, max(1, world), self.accumulation > 1)
        memory = self.at(parallelism, world, micro_batch)
        # those that are made, and the copy of one on its way; without a GPU they are those that the step takes
        batches = (max(1, self.buffers) + 1) * self.batch_bytes(micro_batch)
        step = InUse(memory.device_bytes, memory.host_bytes + self.cache_bytes, beside_gpu=layout.pinned_bytes + batches)
        save = replace(step, host=step.host + memory.save_bytes, beside_gpu=step.beside_gpu + pinned_surplus(memory.save_bytes))
        return Peaks(Peak.of(layout.birth()), Peak.of([step]), Peak.of([save]), Peak.of(layout.resume()))

    def largest_micro_batch(self, parallelism: Parallelism, world: int, device_bytes: float, most: int = 2**20) -> int:
        """The most samples a device can hold at once; 0 where it cannot hold one."""
        low, high = 0, 1
        while high <= most and self.at(parallelism, world, high).device_bytes <= device_bytes:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.at(parallelism, world, middle).device_bytes <= device_bytes else (low, middle)
        return low


def pinned_surplus(block: int) -> int:
    """Bytes by which torch rounds a pinned block up: to a power of two."""
    return (1 << (block - 1).bit_length()) - block if block else 0


def estimate_memory(fake: FakeTask, config: TrainConfig, micro_batch: int, data: DataConfig | None = None) -> MemoryEstimate:
    """Traces every phase of the task: at `micro_batch`, for which the plan is then exact, or at `TRACED` where that is less, and at 2 or 4.

    data: how samples are read, for what the host keeps of them.
    """
    players = fake.players.weights
    elements = {player: sum(p.numel() for p in weights.values()) for player, weights in players.items()}
    state = {id(value): value for value in fake.task.state_dict(keep_vars=True).values()}
    everything = sum(value.numel() * value.element_size() for value in state.values())
    upstream = FrozenBytes.of(fake.task)
    groups = [(player, group) for player, weights in players.items() for group in parameter_groups(fake.task, weights, optim_of(config, player))]
    model = ModelElements(
        elements,
        max((p.numel() for weights in players.values() for p in weights.values()), default=0),
        everything - FP32 * sum(elements.values()) - upstream.asked - upstream.unasked,
        upstream,
        fake.task.encodes and config.encode == "ahead",
        sum(state_elements(group["name"], weight, optim_of(config, player)) for player, group in groups for weight in group["params"]),
        sum(elements[player] for player in fake.task.averaged or elements) if config.ema_halflife_samples else 0,
        bool(config.ema_halflife_samples or averaging_players(fake.task, config)),
        read_settings(config.deepspeed).get("zero_optimization", {}),
        tuple(sum(weight.numel() for weight in group["params"]) for _, group in groups),
        sum(value.numel() * value.element_size() for value in state.values() if not isinstance(value, nn.Parameter)),
        *bucket_bytes(fake, config),
        shard_group_size=config.shard_group_size,
    )
    most = min(max(2, micro_batch), TRACED)
    sizes = sorted({most, 2 if most > 2 else 4})
    traces = [tuple(fake.trace(phase, size, config.precision) for size in sizes) for phase in fake.task.phases]
    cache, readers = (data.cache_mb << 20, data.readers) if data else (0, 0)
    return MemoryEstimate(
        model, tuple((small, large) for small, large in traces), config.accumulation, config.global_batch, cache, 2 * readers
    )  # fmt: skip


def bucket_bytes(fake: FakeTask, config: TrainConfig) -> tuple[int, int, int, int]:
    """`bucket_bytes`, `staging_bytes`, `sent_bytes` and `arriving_bytes`."""
    low = sum(weight.numel() for module in fake.task.modules() if is_low(module) for weight in module.parameters(recurse=False))
    if config.precision == "fp32" or not low:
        return FP32, FP32, FP32, FP32
    if config.reduction == "fp32":
        return FP32, FP32, FP32, BF16
    others = FP32 * (low < fake.trained)
    return BF16 + others, FP32 + others, FP32 + BF16, BF16


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
    offloaded: dict[str, int] = field(init=False, default_factory=dict)
    """Elements on the host."""
    gathered_bytes: int = field(init=False, default=0)
    """Of ZeRO-3's weights that are whole while the loss and its gradients are computed."""
    pinned_bytes: int = field(init=False, default=0)
    """By which they take more of the host beside a GPU, where DeepSpeed pins them."""

    def __post_init__(self) -> None:
        trained = self.model.trained
        states = self.model.optimizer_elements
        share = {"ddp": 1, "single": 1}.get(self.parallelism.strategy, self.world)
        self.kept = {"weights": trained, "gradients": 0, "optimizer": states // share, "buckets": 0}
        getattr(self, f"_{self.parallelism.strategy}")(trained, trained // self.world)
        if self.parallelism.offload != "none":
            self._offload(trained // self.world)
        self.kept["EMA"] = self.model.averaged // self.world
        buffers = self.model.buffer_bytes  # whole on rank 0
        weights = (self.model.whole_bytes - buffers) // self.world + buffers
        self.save_bytes = weights + (weights if self.model.saves_average else 0) + FP32 * states // self.world

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
        # as they arrive, and as the layers use them
        self.gathered_bytes = min(trained, max(one.live for one in buffers)) * (self.model.arriving_bytes + FP32)

    def _offload(self, share: int) -> None:
        """Stage 2 has there a copy of the weights on their way back, and the gradients with one weight's on its way; stage 3 has gradients twice."""
        stage3, everything = self.parallelism.strategy == "zero3", self.parallelism.offload == "all"
        moved = ["optimizer", "gradients"] + (["weights"] if everything else [])
        self.offloaded = {part: self.kept[part] for part in moved}
        self.offloaded["copies of weights"] = share
        self.offloaded["on their way"] = share if stage3 else 2 * share + self.model.largest
        self.host_bytes = FP32 * sum(self.offloaded.values())
        groups = sum(pinned_surplus(FP32 * (group // self.world)) for group in self.model.groups)
        if stage3:  # all gradients, those of what is updated at once, which is no larger than a bucket, and each group's weights
            bucket = max(1, self.kept["buckets"])
            at_once = share // bucket * pinned_surplus(FP32 * bucket) + pinned_surplus(FP32 * (share % bucket))
            self.pinned_bytes = pinned_surplus(FP32 * share) + at_once + (groups if everything else 0)
        else:
            self.pinned_bytes = 3 * groups + pinned_surplus(FP32 * self.model.largest)
        self.kept |= dict.fromkeys(moved, 0)
        self.kept["buckets"] += self.model.largest  # on its way to the host

    @property
    def bucket_bytes(self) -> int:
        """Per element of a bucket."""
        return self.model.bucket_bytes if self.parallelism.strategy == "zero3" else self.model.staging_bytes

    @property
    def sent_bytes(self) -> int:
        """Per element of what is copied out of a bucket to be sent."""
        return self.model.bucket_bytes if self.parallelism.strategy == "zero3" else self.model.sent_bytes

    def parts(self, *, activations: int = 0, gradients: int = 0, buckets: int = 0, gathered: int = 0, batches: int = 0) -> dict[str, int]:
        """Bytes by part; `gradients` are elements, beside those that are kept, and `buckets` bytes beside them."""
        elements = {**self.kept, "gradients": self.kept["gradients"] + gradients}
        found = {name: (self.bucket_bytes if name == "buckets" else FP32) * count for name, count in elements.items()}
        found["buckets"] += buckets
        others = {"frozen": self._frozen, "gathered weights": gathered, "activations": activations, "batches": batches}
        everything = {**found, **others}
        return {name: everything[name] for name in PARTS if everything.get(name)}

    def birth(self) -> Iterator[InUse]:
        """What there is from the build of the task to the first step, which makes the optimizer's state."""
        yield self._built(checked=True)
        yield from self._setup()

    def _built(self, *, checked: bool) -> InUse:
        """The task as it is made, whose weights ranks add up in fp64 to check that they have the same; sharded ones always, as they become shares."""
        added_up = 2 * FP32 * self.model.largest
        if not self._sharded:
            return InUse(0, self.model.whole_bytes + checked * added_up)
        whole = min(self.model.trained, WHOLE_ELEMENTS)  # where they are made
        return InUse(0, self.model.all_frozen_bytes + FP32 * (whole + (self.model.trained - whole) // self.world) + added_up)

    def resume(self) -> Iterator[InUse]:
        """The same from a checkpoint: pages of its files are there until all that is read from a file is copied."""
        yield self._built(checked=False)
        yield from self._setup()
        built = self.model.all_frozen_bytes + FP32 * self.model.trained // (self.world if self._sharded else 1)
        yield InUse(0, 2 * built)
        states = self.model.optimizer_elements // (1 if self.parallelism.strategy in ("single", "ddp") else self.world)
        rest = self._at_rest(FP32 * states)
        yield replace(rest, host=rest.host + FP32 * states)
        yield replace(rest, host=rest.host + FP32 * self.kept["EMA"])

    @property
    def _frozen(self) -> int:
        """Bytes of frozen networks and buffers on the device."""
        upstream = self.model.upstream.held(self.world, ahead=self.model.ahead, sharded=self.parallelism.strategy == "zero3")
        return self.model.frozen_bytes + upstream

    @property
    def _all_weights(self) -> int:
        """The same with all trained weights."""
        return FP32 * self.model.trained + self._frozen

    @property
    def _sharded(self) -> bool:
        return self.parallelism.strategy == "zero3" and self.world > 1

    def _at_rest(self, states: int = 0) -> InUse:
        """What is kept between steps, with so many bytes of optimizer state."""
        parts = self.parts()
        hosted = bool(self.offloaded)
        device = sum(parts.values()) - parts.get("optimizer", 0)
        host = self.host_bytes - FP32 * self.offloaded.get("optimizer", 0)
        unwritten = {"ddp": "gradients", "zero3": "buckets"}.get(self.parallelism.strategy, "")
        late = parts.get(unwritten, 0) - (FP32 * self.model.largest if hosted and unwritten == "buckets" else 0)
        return InUse(device + (0 if hosted else states), host + (states if hosted else 0), late, self.pinned_bytes)

    def _setup(self) -> Iterator[InUse]:
        """From a task that is built to one that trains, with its moving average."""
        if self.parallelism.strategy == "zero3":
            yield from self._partitioned()
        else:
            yield InUse(self._all_weights, 0)
        if self.parallelism.strategy == "ddp" and self.world > 1:
            yield InUse(self._all_weights + min(_BROADCAST_BYTES, FP32 * self.model.trained), 0)
        if self.parallelism.strategy in ("zero1", "zero2"):
            yield from self._flattened()
        yield self._at_rest()

    def _flattened(self) -> Iterator[InUse]:
        """Stages 1 and 2 copy each group into a flat tensor, in which its weights lie from then on, and this rank's share of that.

        DeepSpeed makes the flat tensor on the host where the device has no room for it.
        """
        hosted, done = bool(self.offloaded), 0
        for group in self.model.groups:
            yield InUse(self._all_weights + FP32 * (group + (0 if hosted else done)), FP32 * 2 * done if hosted else 0)
            done += group // self.world
        if not hosted:
            yield InUse(self._all_weights + FP32 * 2 * done, 0)  # a gradient of the share is made, and dropped as that copy is

    def _partitioned(self) -> Iterator[InUse]:
        """Stage 3 takes weight after weight, which is whole meanwhile, lays its shares one after the other, and copies them."""
        share, largest = FP32 * self.model.trained // self.world, FP32 * self.model.largest
        built_frozen, frozen = self.model.all_frozen_bytes, self._frozen
        built = share if self._sharded else FP32 * self.model.trained
        hosted, everything = bool(self.offloaded), self.parallelism.offload == "all"
        yield InUse(largest, built_frozen + built + largest // self.world)
        yield InUse(largest + (0 if everything else share), built_frozen + largest // self.world + (share if everything else 0))
        laid = InUse(frozen, share, beside_gpu=share) if everything else InUse(frozen + share, 0, beside_gpu=share)
        yield laid
        part = FP32 * min(max(self.kept["buckets"], 1), self.model.trained // self.world)
        if hosted:
            yield replace(laid, host=laid.host + 2 * share + part)
        else:  # the copies, which are dropped in the end, with a gradient of a part; then all gradients, and each weight whole while it gets its hook
            yield replace(laid, device=laid.device + share + max(part, share + 2 * largest))

    def moments(self, trace: PassTrace) -> Iterator[dict[str, int]]:
        """What there is at each moment of a phase beside what is kept, as `parts` takes it."""
        others = self.model.trained - self.model.elements[trace.player]
        if self.parallelism.strategy == "single" or (self.parallelism.strategy == "ddp" and self.world == 1):
            yield from self._whole(trace, others, bucket=0)
        elif self.parallelism.strategy == "ddp":
            # what micro-batches but the last leave lies beside the buckets until it is added up with that of the last
            left = self.model.elements[trace.player] if self.many else 0
            yield from ({"activations": moment.live_bytes, "gradients": left} for moment in trace.moments)
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
        """Every gradient stays whole to the end; ZeRO-1 then moves them into a bucket, sends a copy of that when it is full, and keeps its share."""
        elements, staged = self.model.elements[trace.player], self.bucket_bytes * bucket
        for moment in trace.moments:
            ready = elements if self.many else moment.ready
            yield {"activations": moment.live_bytes, "gradients": others + ready, "buckets": staged if moment.ready else 0}
        yield {"gradients": others + elements, "buckets": max(staged, self.bucket_bytes * (elements // self.world)) if bucket else 0}
        if bucket:
            yield {"gradients": others + elements - bucket, "buckets": staged + self.sent_bytes * bucket}

    def _bucketed(self, trace: PassTrace, bucket: int) -> Iterator[dict[str, int]]:
        """Gradients go into a bucket, which is sent when it is full: a copy of it, and of that the share that stays."""
        elements, stage3 = self.model.elements[trace.player], self.parallelism.strategy == "zero3"
        share = 0 if stage3 or self.parallelism.offload != "none" else elements // self.world
        kept = share if self.many else 0
        whole = 0 if stage3 else self.bucket_bytes * bucket  # ZeRO-3's is there all the time
        filled, sent = 0, False
        for moment, sends, filled in _fills(trace.moments, bucket):
            buckets = (whole if moment.ready else 0) + self.sent_bytes * filled * sends
            yield {"activations": moment.live_bytes, "gradients": kept + share * sent, "buckets": buckets, "gathered": self.gathered_bytes}
            sent = sent or sends
        yield {"gradients": kept + share * sent, "buckets": whole + self.sent_bytes * filled, "gathered": self.gathered_bytes}
        yield {"gradients": kept + share, "buckets": whole}
        # flat, for the optimizer; in stage 3 of what is updated at once, and not where the host has them
        at_once = 0 if self.parallelism.offload != "none" else min(bucket, elements // self.world)
        yield {"gradients": at_once if stage3 else kept + 2 * share}


def _fills(moments: Sequence[Moment], bucket: int) -> Iterator[tuple[Moment, bool, int]]:
    """Each moment, whether the bucket is sent at its end to make room, and the elements in it by then."""
    filled = 0
    for moment in moments:
        sends = filled + moment.next > bucket
        yield moment, sends, filled
        filled = moment.next if sends else filled + moment.next
