"""Memory that the C library keeps of what a process has let go."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Gives free memory back to the system, where this is glibc, which keeps it in a heap for each thread otherwise.

    For after a large body, whose copies may lie in several of them. To have the allocator give every large block back by itself (M_MMAP_THRESHOLD)
    would double the time of models that compute in this process: each of their tensors would be new memory of the system's.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
