"""Frozen networks inside a task that trains: earlier stages that encode its samples, teachers, the base of a refiner.

Their weights are on a device only where and while something asks for them. What is away is a parameter without values, of which each rank keeps its
share in a file without a name: enough for checkpoints, and for all ranks together to have it back. Where all else is sharded (ZeRO-3), so are those
that encode while the task trains: each layer has its weights whole while it runs.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from genlib import distributed
from genlib.engine.sharded_init import SMALL_ELEMENTS
from genlib.files import cache_folder
from genlib.inference import is_low
from genlib.task import Task
from genlib.upstream import every_upstream

_ALIGNMENT = 64


def lower(task: Task) -> None:
    """Keeps layers of the task's upstream tasks in bf16 from now on, of those whose outputs allow it; checkpoints have them so too.

    Embeddings and normalisation stay fp32, and with them the sums between layers.
    """
    for one in every_upstream(task):
        if one.frozen_precision == "bf16" and not one.kept_in_bf16:
            one.kept_in_bf16 = True
            for weight in (weight for module in filter(is_low, one.modules()) for weight in module.parameters(recurse=False)):
                weight.data = weight.data.to(torch.bfloat16)


@dataclass(slots=True, eq=False)
class _Weight:
    """A weight of upstream tasks, and where it stands: a tied one in several places."""

    places: list[tuple[nn.Module, str]]
    asked: bool
    """Whether anything asks for it while the task trains."""
    shard: Tensor | None = None
    """This rank's share (n,), once it has been away."""
    sharded: bool = False
    """Whether the module that holds it has it whole while it runs."""

    @property
    def now(self) -> nn.Parameter:
        """The parameter that stands there."""
        module, name = self.places[0]
        return module.get_parameter(name)

    def put(self, value: Tensor) -> nn.Parameter:
        """Has another value stand there."""
        weight = nn.Parameter(value, requires_grad=False)
        for module, name in self.places:
            setattr(module, name, weight)
        return weight

    def is_sharded(self, least: int) -> bool:
        """Whether it is one of those of so many elements or more that are in shards where the task's own weights are."""
        return self.asked and self.now.numel() >= least and all(_is_layer(module) for module, _ in self.places)

    def leave_for_all(self) -> None:
        """The same; and whoever else holds the parameter holds no memory."""
        before = self.now
        self.leave()
        before.data = before.data.new_empty(0)

    def leave(self) -> None:
        """Has nothing but the shape stand there, and the share beside it."""
        before = self.now
        if not before.is_meta:
            self.put(torch.empty(before.shape, dtype=before.dtype, device="meta")).shard = self.shard  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class FrozenBytes:
    """How much memory the weights of upstream tasks take, of those that anything asks for while the task trains."""

    fp32: int = 0
    bf16: int = 0
    layers: int = 0
    """Of both, those that are sharded where the task's own weights are."""
    unasked: int = 0
    """Of the others, which are away."""

    @property
    def asked(self) -> int:
        """Of both types."""
        return self.fp32 + self.bf16

    def held(self, world: int, *, ahead: bool, sharded: bool) -> int:
        """On each of so many devices while the task trains."""
        return 0 if ahead else self.asked - (self.layers - self.layers // world if sharded else 0)

    @classmethod
    def of(cls, task: Task, small: int = SMALL_ELEMENTS) -> FrozenBytes:
        """Of a task's upstream tasks as they are; weights of fewer than `small` elements are never sharded."""
        counts = dict.fromkeys(("fp32", "bf16", "layers", "unasked"), 0)
        for weight in FrozenNetworks(task, torch.device("cpu")).weights:
            nbytes = weight.now.numel() * weight.now.element_size()
            counts[("bf16" if weight.now.dtype == torch.bfloat16 else "fp32") if weight.asked else "unasked"] += nbytes
            counts["layers"] += nbytes * weight.is_sharded(small)
        return cls(**counts)


class FrozenNetworks:
    """Of one task, on every rank; all call the same."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task, self.device = task, device
        asked = {id(weight) for module in task.asked_upstream() for weight in module.parameters()}
        places: dict[int, list[tuple[nn.Module, str]]] = {}
        for one in every_upstream(task):
            for module in one.modules():
                for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
                    places.setdefault(id(weight), []).append((module, name))
        self.weights = [_Weight(found, key in asked) for key, found in places.items()]

    def leave_unasked(self) -> None:
        """Takes away what nothing asks for while the task trains."""
        self._take_away([weight for weight in self.weights if not weight.asked])

    def bring(self) -> None:
        """Has what is asked for on the device, and with it all buffers."""
        for weight in self.weights:
            if not weight.asked or weight.sharded:
                continue
            if weight.now.is_meta:
                weight.put(whole_value(weight.now, self.device))
            else:
                weight.now.data = weight.now.data.to(self.device)
        self.bring_buffers()

    def bring_buffers(self) -> None:
        """Of all upstream tasks, to the device."""
        for one in every_upstream(self.task):
            for module in one.modules():
                for name, value in module.named_buffers(recurse=False):
                    setattr(module, name, value.to(self.device))

    @torch.no_grad()
    def settle(self, *, ahead: bool, sharded: int | None = None) -> None:
        """As they are while the task trains: on the device, or, where everything is encoded ahead, away.

        sharded: on the device each rank holds its share of layers' weights of so many elements or more; None leaves all whole.
        """
        if sharded is not None and not ahead:
            self._shard(sharded)
        if self.task.keeps_constants or not ahead:
            self.bring()
        if self.task.keeps_constants:
            self.task.keep_constants()
        if ahead:
            self.bring_buffers()
            self.drop()

    def drop(self) -> None:
        """Takes all away."""
        self._take_away(self.weights)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def present(self) -> Iterator[None]:
        """Inside, what is asked for is on the device."""
        away = any(weight.asked and not weight.sharded and weight.now.is_meta for weight in self.weights)
        if away:
            self.bring()
        try:
            yield
        finally:
            if away:
                self.drop()

    def _shard(self, least: int) -> None:
        """Layers alone, as nothing but their `forward` asks for their weights; all ranks run the same ones in the same order."""
        layers: dict[nn.Module, list[_Weight]] = {}
        for weight in self.weights:
            if weight.is_sharded(least):
                weight.shard, weight.sharded = _share(weight.now).to(self.device, copy=True), True
                weight.leave_for_all()
                for module, _ in weight.places:
                    layers.setdefault(module, []).append(weight)
        for module, weights in layers.items():
            module.register_forward_pre_hook(partial(self._gather, weights))
            module.register_forward_hook(partial(_leave, weights), always_call=True)

    def _gather(self, weights: list[_Weight], *_: object) -> None:
        for weight in weights:
            weight.put(whole_value(weight.now, self.device))

    def _take_away(self, weights: Sequence[_Weight]) -> None:
        here = [weight for weight in weights if not weight.now.is_meta]
        new = [weight for weight in here if weight.shard is None]
        for weight, shard in zip(new, in_a_file([_share(weight.now) for weight in new]), strict=True):
            weight.shard = shard
        for weight in here:
            weight.leave_for_all()


def _leave(weights: list[_Weight], *_: object) -> None:
    for weight in weights:
        weight.leave()


def _is_layer(module: nn.Module) -> bool:
    return is_low(module) or type(module).forward is nn.Embedding.forward


def shard_of(weight: Tensor) -> Tensor | None:
    """This rank's share (n,) of a weight that is away; None of one that is here."""
    return getattr(weight, "shard", None) if weight.is_meta else None


def whole_value(value: Tensor, device: torch.device) -> Tensor:
    """An entry of a task's state dict; where it is away, its values on that device, from the shares of all ranks, which then all call it."""
    shard = shard_of(value)
    return value if shard is None else distributed.gather_shard(shard.to(device), value.numel()).view(value.shape)


def _share(weight: Tensor) -> Tensor:
    low, high = distributed.share(weight.numel(), distributed.rank(), distributed.world_size())
    return weight.detach().reshape(-1)[low:high]


def in_a_file(values: Sequence[Tensor]) -> list[Tensor]:
    """Copies of flat tensors in a file of GENLIB_CACHE that has no name and ends with the process; in memory where the disk has no room for it."""
    offsets, end = [], 0
    for value in values:
        offsets.append(end)
        end += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
    if not end:
        return [value.cpu().clone() for value in values]
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_folder()) as file:
            for value, offset in zip(values, offsets, strict=True):
                file.seek(offset)
                file.write(value.cpu().view(torch.uint8).numpy().data)
            file.truncate(end)
            file.flush()
            memory = torch.frombuffer(mmap.mmap(file.fileno(), end, access=mmap.ACCESS_COPY), dtype=torch.uint8)
    except OSError:
        return [value.cpu().clone() for value in values]
    return [memory[offset : offset + value.nbytes].view(value.dtype) for value, offset in zip(values, offsets, strict=True)]
