"""What the C library's allocator does with large blocks that a process has let go."""

from __future__ import annotations

import contextlib
import ctypes

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of mallopt(3)."""
_LARGE_BYTES = 4 << 20


def give_back_large_blocks() -> None:
    """Large blocks go back to the system at once, where this is glibc; by itself it raises the size from which they do to 32 MB as such come and go.

    Then copies of the bodies of many requests stay in each thread's heap. The price is time on bodies of that size, for which the system has
    to make room anew; smaller ones take as long as before.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
