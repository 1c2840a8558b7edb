"""Anonymous memory that processes share (memfd), and batches of tensors laid out in it.

The kernel frees a memfd with the last process that has it open, however that ended: nothing is left in /dev/shm, and the limit of
that mount does not apply.
"""

from __future__ import annotations

import math
import mmap
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlib.types import Batch

_ALIGN_BYTES = 64  # a cache line, and the widest vector register
_LEAST_BYTES = 1 << 16
Layout = list[list[Any]]
"""For each tensor its name, the name of its type, its shape and its first byte: values that JSON can hold."""


class SharedBuffer:
    """A memfd, new or inherited by its number, mapped as far as this process needed it; it only grows."""

    def __init__(self, fd: int | None = None):
        self.fd = os.memfd_create("genlib-reader") if fd is None else fd
        self._map: mmap.mmap | None = None

    def view(self, size: int) -> np.ndarray:
        """Its first `size` bytes, uint8 (size,), writable; the mapping lives as long as any view of it."""
        if self._map is None or len(self._map) < size:
            room = max(os.fstat(self.fd).st_size, 1 << (size - 1).bit_length() if size > _LEAST_BYTES else _LEAST_BYTES)
            os.ftruncate(self.fd, room)  # pages that nobody touches take no memory
            self._map = mmap.mmap(self.fd, room)
        return np.frombuffer(self._map, np.uint8, size)

    def write(self, data: bytes) -> None:
        """Puts bytes at its start."""
        self.view(len(data))[:] = np.frombuffer(data, np.uint8)

    def close(self) -> None:
        """Closes the file; views stay valid."""
        os.close(self.fd)
        self._map = None


def pack(batch: Batch, buffer: SharedBuffer) -> tuple[int, Layout]:
    """Copies the tensors into the buffer. Returns the bytes taken and the layout for `unpack`."""
    layout, end = [], 0
    for name, tensor in batch.items():
        layout.append([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), end])
        end += -(-tensor.nbytes // _ALIGN_BYTES) * _ALIGN_BYTES
    memory = buffer.view(end)
    for (_, *where), tensor in zip(layout, batch.values(), strict=True):
        _tensor(memory, *where).copy_(tensor.detach())
    return end, layout


def unpack(memory: np.ndarray, layout: Layout) -> Batch:
    """The tensors of a layout as views of memory (bytes,) uint8, which lives as long as any of them."""
    return {name: _tensor(memory, *where) for name, *where in layout}


def _tensor(memory: np.ndarray, dtype: str, shape: list[int], offset: int) -> Tensor:
    kind, count = getattr(torch, dtype), math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(memory, dtype=kind, count=count, offset=offset).view(shape)
