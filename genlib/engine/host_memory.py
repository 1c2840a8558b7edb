"""How this process holds the host's memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BYTES = 1_000_000


def give_back_large_blocks() -> None:
    """Has the C library give blocks of a megabyte and more back to the system once they are freed, for the life of the process.

    Else it keeps blocks of up to 32 MiB to use them again, and where weights, their shares and gradients come and go in many sizes, the gaps
    between them. `python -m tests.benchmarks.sharded_training` measures what a rank holds. Does nothing where the C library is no glibc.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
