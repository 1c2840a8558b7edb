"""How a trained task computes its answers: in fp32, bf16 or fp16, compiled or as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genlib.task import Task

Precision = Literal["fp32", "bf16", "fp16"]
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class Inference:
    """Below fp32, layers of matrices keep their weights in that type and compute under autocast; normalisation, sums, samplers, and what a family
    computes in fp32 by itself, stay fp32, and so do answers."""

    precision: Precision = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in TYPES:
            raise ValueError(f"precision is {self.precision!r}; take one of {', '.join(TYPES)}")

    def prepare(self, task: Task, device: torch.device | str) -> None:
        """Makes the weights those of the precision, and compiles what networks compute there, at the first call of each. Not undone."""
        if self.precision != "fp32":
            for module in modules(task):
                if is_low(module):
                    module.to(TYPES[self.precision])
            for network in networks(task):
                network.register_forward_hook(lambda module, given, made: in_fp32(made))
        if self.compile:
            check_compiler(torch.device(device))
            for owner, method in {*((network, "forward") for network in networks(task)), *task.step_calls()}:
                vars(owner)[method] = torch.compile(getattr(owner, method))

    def apply(self, device: torch.device, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """function(...), a method of a task on that device or of one of its networks, in its precision; answers are fp32."""
        if self.precision == "fp32":
            return function(*args, **kwargs)
        # without the cache, which keeps casts of weights that have a gradient alone
        with torch.autocast(device.type, TYPES[self.precision], cache_enabled=False):
            return in_fp32(function(*args, **kwargs))


USUAL = Inference()


def check_compiler(device: torch.device) -> None:
    """ValueError where torch.compile has no compiler for the device: for CPUs it calls that of the machine."""
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise ValueError("compiling for a CPU needs a C++ compiler, and there is none; install g++, or leave compile out")


def is_low(module: nn.Module) -> bool:
    """Whether autocast computes what the module does with its weights in low precision."""
    return any(type(module).forward is layer.forward for layer in _LAYERS)


def modules(task: Task) -> Iterator[nn.Module]:
    """All modules of a task and of its upstream tasks."""
    yield from task.modules()
    for one in task.upstream.values():
        yield from modules(one)


def networks(task: Task) -> Iterator[nn.Module]:
    """The networks of a task and of its upstream tasks."""
    yield from task.children()
    for one in task.upstream.values():
        yield from networks(one)


def in_fp32(value: Any) -> Any:
    """Tensors of low precision as fp32, also those in tuples, lists and dictionaries; classes of other libraries stay what they are."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if type(value) in (tuple, list):
        return type(value)(map(in_fp32, value))
    return {name: in_fp32(one) for name, one in value.items()} if type(value) is dict else value
