"""What the C library's allocator does with large blocks that a process has let go."""

from __future__ import annotations

import contextlib
import ctypes

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of mallopt(3)."""
_LARGE_BYTES = 4 << 20


def give_back_large_blocks() -> None:
    """Large blocks go back to the system at once, where this is glibc; by itself it raises the size from which they do to 32 MB as such come and go.

    Then copies of the bodies of many requests stay in each thread's heap: a front that had 600 of 16 MB one after the other kept 320 MB of
    them, and so keeps 13. A body of 16 MB takes about half as much time again to read, one below 4 MB as much as before.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
