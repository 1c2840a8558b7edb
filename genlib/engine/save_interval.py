"""How often to save a checkpoint: the closed form."""

from __future__ import annotations

import math


def best_interval(*, stall: float, write: float, apart: float, step_seconds: float, steps: int) -> int:
    """Steps from one checkpoint to the next that lose the least time to saves and failures, of a run of so many.

    Young 1974 (doi:10.1145/361147.361115), for the seconds that steps stand still for a save (`stall`) where failures come so many seconds
    `apart`; no faster than the store takes one checkpoint after the other (`write`).
    """
    return min(steps, max(1, round(max(math.sqrt(2 * stall * apart), write) / step_seconds)))


def lost_share(*, stall: float, write: float, apart: float, between: float) -> float:
    """Share of the time that goes to saves every `between` seconds, and to steps since the newest checkpoint that is sealed when a failure comes."""
    return stall / between + (between / 2 + write) / apart
