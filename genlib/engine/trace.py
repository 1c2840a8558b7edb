"""A training step traced without data, weights or a device: how much memory is alive when, and how many operations it takes.

The task is built and run on fake tensors, which have shapes and no values (torch's FakeTensorMode), so a network of any size is traced
in seconds; autocast, gradient checkpointing and fused attention act as they do in training.
"""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genlib import companions
from genlib.engine.strategy import LossModule, Players
from genlib.task import Phase, Task
from genlib.types import Batch, Step


@dataclass(frozen=True, slots=True)
class Moment:
    """Between two gradients: the most bytes alive that are neither weights nor gradients, and the gradients that are there by then.

    `ready` are the elements of each gradient made so far, in order; the last moment is the end of the backward pass.
    """

    live_bytes: int
    ready: int
    """Elements of gradients made before this moment."""
    next: int
    """Elements of the gradient that ends it; 0 for the last."""


@dataclass(frozen=True, slots=True)
class PassTrace:
    """Forward and backward of one phase over `size` samples."""

    player: str
    every: int
    size: int
    moments: tuple[Moment, ...]
    flops: int
    """Floating-point operations; a multiplication and an addition are two. What gradient checkpointing computes again counts."""
    recomputed: int
    """Of them, those of what gradient checkpointing computes again."""
    forward: int
    """Of them, those of the forward pass."""
    joint: bool
    """Whether the phase is joint, so that accumulation takes most of its forward passes twice."""
    batch_bytes: int
    """Of the samples as the loss gets them."""

    @property
    def activation_bytes(self) -> int:
        """The most memory that is alive beside weights and gradients."""
        return max(moment.live_bytes for moment in self.moments)


class FakeTask:
    """A task on fake tensors, from `build`, with all layers in use; ValueError in a sentence where it cannot be traced."""

    def __init__(self, build: Callable[[], Task]) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._faked():
            self.task = build().train()
            self.task.grow_up()
            if self.task.keeps_constants:
                with torch.no_grad():
                    self.task.keep_constants()
        self.players = Players(self.task)

    @classmethod
    def of(cls, task: Task) -> FakeTask:
        """A task that exists, copied without its values; its weights must be whole."""
        made = cls.__new__(cls)
        made.mode = FakeTensorMode(allow_non_fake_inputs=True)
        tensors = [value for value in (*task.state_dict(keep_vars=True).values(), *task.buffers()) if isinstance(value, Tensor)]
        made.task = copy.deepcopy(task, {id(value): made.without_values(value) for value in tensors}).train()
        made.players = Players(made.task)
        return made

    def without_values(self, value: Tensor) -> Tensor:
        if value.numel() > 1 and not any(value.stride()):  # apart, see `genlib.engine.sharded_init`
            with self.mode:
                return nn.Parameter(torch.empty(value.shape, dtype=value.dtype, device=value.device), value.requires_grad)
        if value.numel() != 1 or value.is_floating_point() or value.is_meta:
            return self.mode.from_tensor(value)
        with self.mode:  # a constant, whose value may be asked for: a mark of a text, a count
            return torch.tensor(value.tolist(), dtype=value.dtype)

    @property
    def trained(self) -> int:
        """Trained elements."""
        return sum(p.numel() for weights in self.players.weights.values() for p in weights.values())

    @property
    def frozen(self) -> int:
        """Elements that stay as they are: of frozen networks and buffers, also of earlier stages."""
        return sum(value.numel() for value in {id(v): v for v in self.task.state_dict(keep_vars=True).values()}.values()) - self.trained

    @contextmanager
    def _faked(self) -> Iterator[None]:
        generator = torch.get_rng_state()
        try:
            with self.mode:
                yield
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            name = type(getattr(self, "task", None)).__name__
            raise ValueError(f"{name} cannot be planned: its loss asks for the value of a tensor ({error})") from None
        finally:
            torch.set_rng_state(generator)

    def trace(self, phase: Phase, size: int, precision: str) -> PassTrace:
        """One phase over `size` made-up samples."""
        self.players.select(phase.player)
        with self._faked():
            try:
                batch = companions.example(self.task, size)
            except NotImplementedError as error:
                raise ValueError(f"{error}, so there is no plan of it") from None
            return _trace(self.task, self.players.weights[phase.player], phase, batch, size, precision)


def _trace(task: Task, weights: dict[str, nn.Parameter], phase: Phase, batch: Batch, size: int, precision: str) -> PassTrace:
    loss_module = LossModule(task, precision, torch.device("cpu"))
    operations = flop_counter.FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    operations.mod_tracker = _NoModules()  # type: ignore[assignment]  its hooks cannot stand gradients of gradients
    memory = _LiveMemory([*task.state_dict(keep_vars=True).values(), *task.buffers(), *batch.values()], operations.get_total_flops)
    hooks = [weight.register_post_accumulate_grad_hook(memory.take_gradient) for weight in weights.values()]
    try:
        with operations, memory:
            loss = loss_module(phase.name, batch, Step(0, 1))[0]
            forward, memory.in_backward = operations.get_total_flops(), True
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    memory.close()
    flops = operations.get_total_flops()
    samples = sum(value.nbytes for value in batch.values())
    return PassTrace(phase.player, phase.every, size, tuple(memory.moments), flops, memory.recomputed, forward, phase.joint, samples)


def flops_per_sample(fake: FakeTask, size: int, precision: str) -> float:
    """Operations of a training step for one sample, over all phases, each as often as it runs; counted over `size` samples.

    Without what gradient checkpointing computes again, and without `after_step`. ValueError where the task cannot be traced.
    """
    traces = [fake.trace(phase, size, precision) for phase in fake.task.phases]
    return sum((trace.flops - trace.recomputed) / trace.size / trace.every for trace in traces)


class _NoModules:
    """In place of what tells the counter in which module an operation is: in the whole."""

    parents: ClassVar[set[str]] = {"Global"}

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class _LiveMemory(TorchDispatchMode):
    """Adds up what is alive after every operation, and what of `flops` is computed again; `known` tensors are not counted."""

    def __init__(self, known: list[Tensor], flops: Callable[[], int]) -> None:
        super().__init__()
        self.flops, self.recomputed, self.in_backward = flops, 0, False
        self._modules = 0
        """Modules that are inside their `forward`, one in the other."""
        self.live = self.peak = self.ready = 0
        self.moments: list[Moment] = []
        self._seen: set[int] = set()
        self._known = [value.untyped_storage() for value in known]
        self._seen.update(storage._cdata for storage in self._known)
        self._operations = self._next_collection = 0

    def __enter__(self):
        gc.freeze()  # what is collected below is ours alone, so it is quick
        hooks = nn.modules.module
        self._hooks = (
            hooks.register_module_forward_pre_hook(self._enter_module),
            hooks.register_module_forward_hook(self._leave_module, always_call=True),
        )
        return super().__enter__()

    def __exit__(self, *error):
        for hook in self._hooks:
            hook.remove()
        gc.unfreeze()
        return super().__exit__(*error)

    def _enter_module(self, module: nn.Module, args: object) -> None:
        self._modules += 1

    def _leave_module(self, module: nn.Module, args: object, result: object) -> None:
        self._modules -= 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is _DEVICE:  # two of three: answered as FakeTensorMode does, and makes nothing that the counter or this would note
            return torch.device("meta") if args[0].fake_mode.in_kernel_invocation else args[0].fake_device
        # A backward pass records gradients, or runs a module, only where checkpointing runs a piece of the forward pass again. It takes both:
        # a piece need not be a module, and inside of a torch.autograd.Function, as which DeepSpeed replaces F.linear, no gradients are recorded.
        again = self.in_backward and (torch.is_grad_enabled() or self._modules > 0)
        before = self.flops() if again else 0
        result = function(*args, **(kwargs or {}))
        self.recomputed += self.flops() - before if again else 0
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        self._operations += 1
        if self._operations >= self._next_collection:  # recomputing with fake tensors leaves cycles that hold them, with real ones it does not
            gc.collect()
            self._next_collection = self._operations + max(16, self._operations // 50)
        self.peak = max(self.peak, self.live)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.live += size
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size

    def take_gradient(self, weight: Tensor) -> None:
        """Notes a finished gradient and lets go of it: who keeps it depends on the strategy."""
        self._close(weight.numel())
        weight.grad = None
        self.ready += weight.numel()
        self.peak = self.live

    def _close(self, next: int) -> None:
        self.moments.append(Moment(self.peak, self.ready, next))

    def close(self) -> None:
        """The end of the backward pass."""
        self._close(0)


_aten = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_CPU_ATTENTION = {  # torch's counter knows fused attention on GPUs alone
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: flop_counter.sdpa_flop_count(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: flop_counter.sdpa_backward_flop_count(grad, q, k, v),
}
