"""What all ranks must do after the same step, though they come to know of it at different times: end the run, hear that a checkpoint is sealed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from genlib import distributed

_MOST_STEPS = 64
"""Between votes: steps may become slow, and who asks does not wait for ever."""


class Interrupted(Exception):
    """Training was asked to end before its last step; `checkpoint` is that of the last step done, or None where it could not be written."""

    def __init__(self, step: int, steps: int, checkpoint: Path | None) -> None:
        super().__init__(f"stopped after step {step} of {steps}")
        self.step, self.steps, self.checkpoint = step, steps, checkpoint


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all ranks know after the same step."""

    stop: bool = False
    """Any rank asks to end."""
    saved: bool = False
    """On no rank anything is being written any more."""


class Vote:
    """Asks every rank about once a second, and tells all of them the same after the same step.

    asked: whether the run is to end; idle: whether no checkpoint is being written. Ranks must vote together, but their clocks differ: rank 0
    says at each vote after how many steps the next one comes.
    """

    def __init__(
        self, asked: Callable[[], bool], idle: Callable[[], bool], device: torch.device, first_step: int, seconds_between: float = 1.0
    ) -> None:
        self.asked, self.idle, self.device, self.seconds_between = asked, idle, device, seconds_between
        self.last_step, self.next_step, self.last_vote = first_step, first_step + 1, time.perf_counter()

    def __call__(self, step: int) -> Agreed:
        """Every rank calls it after every step."""
        if step < self.next_step:
            return Agreed()
        steps, seconds = step - self.last_step, time.perf_counter() - self.last_vote
        wanted = max(1.0, min(steps * self.seconds_between / max(seconds, 1e-9), 8.0 * steps, _MOST_STEPS))
        mine = [float(self.asked()), float(not self.idle()), wanted if distributed.rank() == 0 else 0.0]
        votes = torch.tensor(mine, dtype=torch.float64, device=self.device)
        stop, busy, interval = (distributed.mean_over_ranks(votes) * distributed.world_size()).tolist()
        self.last_step, self.next_step, self.last_vote = step, step + round(interval), time.perf_counter()
        return Agreed(stop > 0.5, busy < 0.5)
