"""The bytes of what ranks gather and add up, counted from the collectives as they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GATHERS = ("_allgather_base_", "allgather_", "allgather_into_tensor_coalesced_")
REDUCTIONS = ("allreduce_", "reduce_", "_reduce_scatter_base_", "reduce_scatter_")
SENDS = ("send",)


class CountedBytes(TorchDispatchMode):
    """While it is open: bytes of whole tensors, of what this thread gathers, adds up and sends to one rank; single numbers aside."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = self.gathered_in_groups = self.reduced = self.sent = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func.namespace == "c10d":  # type: ignore[attr-defined]
            name = func.__name__.partition(".")[0]
            whole = max(map(nbytes, args))
            if name in GATHERS and in_group(args):
                self.gathered_in_groups += whole
            elif name in GATHERS:
                self.gathered += whole
            elif name in REDUCTIONS:
                self.reduced += whole
            elif name in SENDS:
                self.sent += whole
        return func(*args, **(kwargs or {}))


def in_group(args: Sequence[Any]) -> bool:
    """Whether a collective is one of some of the ranks alone."""
    groups = [dist.ProcessGroup.unbox(value) for value in args if isinstance(value, torch.ScriptObject) and "ProcessGroup" in str(value._type())]
    return any(group.size() < dist.get_world_size() for group in groups)


def nbytes(value: Any) -> int:
    """Of a tensor, or of all in a list; of a single number none."""
    if isinstance(value, Tensor):
        return value.nbytes if value.numel() > 1 else 0
    return sum(map(nbytes, value)) if isinstance(value, list | tuple) else 0
