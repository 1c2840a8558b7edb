"""How this process holds the host's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from contextlib import suppress

import torch

from genlib.checkpoint import Shard

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BYTES = 1_000_000
_ALIGNMENT = 64


def give_back_large_blocks() -> None:
    """Has the C library give blocks of a megabyte and more back to the system once they are freed, for the life of the process.

    Else it keeps blocks of up to 32 MiB to use them again, and where weights, their shares and gradients come and go in many sizes, the gaps
    between them. `python -m tests.benchmarks.sharded_training` measures what a rank holds. Does nothing where the C library is no glibc.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


class HostCopy:
    """Memory of the host for a copy of tensors, kept from one to the next; beside a GPU it is pinned."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._memory = device, torch.empty(0, dtype=torch.uint8)

    def of(self, shards: Iterable[Shard]) -> list[Shard]:
        """The shards as they are now, until the next call."""
        shards = list(shards)
        ends = [0]
        for shard in shards:
            ends.append(ends[-1] + -(-shard.tensor.nbytes // _ALIGNMENT) * _ALIGNMENT)
        if self._memory.numel() < ends[-1]:
            self._memory = torch.empty(0, dtype=torch.uint8)  # frees it before the larger one is there
            self._memory = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        copies = []
        for shard, begin in zip(shards, ends, strict=False):
            values = shard.tensor.detach().reshape(-1)
            copy = self._memory[begin : begin + values.nbytes].view(values.dtype)
            copies.append(Shard(shard.name, shard.offset, copy.copy_(values, non_blocking=True)))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return copies
