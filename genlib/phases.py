"""From a command to its first step: one line a phase, said when it is through, with its seconds."""

from __future__ import annotations

import re
import sys
import time

PHASE = re.compile(r" *(\d+\.\d) s  (.*)")
"""A line of `phase`: the seconds, and which phase."""
_last = time.perf_counter()


def since_last() -> float:
    """Seconds since the phase before in this process, or since its start; the next one begins."""
    global _last
    before, _last = _last, time.perf_counter()
    return _last - before


def in_words(words: str, seconds: float) -> str:
    """The line of a phase that took so many seconds."""
    return f"{seconds:6.1f} s  {words}"


def phase(words: str, *, seconds: float | None = None, aside: bool = False) -> None:
    """Says that a phase is through, after so many seconds: by default those of `since_last`. `aside` is on stderr, where scripts read stdout."""
    taken = since_last()
    print(in_words(words, taken if seconds is None else seconds), file=sys.stderr if aside else None, flush=True)
