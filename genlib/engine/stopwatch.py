"""How long the parts of a step take on the device, without waiting for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import torch

Part = Literal["forward", "backward", "optimizer"]
PARTS: tuple[Part, ...] = ("forward", "backward", "optimizer")


@dataclass(slots=True)
class Laps:
    """Of one part of one step; `float` of it is its seconds, and on a GPU waits until that has come so far."""

    seconds: float = 0.0
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def __float__(self) -> float:
        for _, end in self.events:
            end.synchronize()
        return self.seconds + sum(begin.elapsed_time(end) for begin, end in self.events) / 1000


class Stopwatch:
    """Of a device, from step to step."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._laps: dict[Part, Laps] = {part: Laps() for part in PARTS}
        self._since: float | torch.cuda.Event = 0.0

    def start(self) -> None:
        """What comes now is the first part."""
        self._since = self._now()

    def lap(self, part: Part) -> None:
        """What was done since the start, or the last lap, was that part."""
        now, since = self._now(), self._since
        if isinstance(now, torch.cuda.Event) and isinstance(since, torch.cuda.Event):
            self._laps[part].events.append((since, now))
        elif isinstance(now, float) and isinstance(since, float):
            self._laps[part].seconds += now - since
        self._since = now

    def read(self) -> dict[Part, Laps]:
        """What the parts took since the last call."""
        laps = self._laps
        self._laps = {part: Laps() for part in PARTS}
        return laps

    def _now(self) -> float | torch.cuda.Event:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
