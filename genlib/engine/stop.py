"""Ending a run before its end: all ranks after the same step, with a checkpoint of it."""

from __future__ import annotations

import time
from collections.abc import Callable
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


class StopVote:
    """Asks every rank about once a second whether the run is to end, and tells all of them the same after the same step.

    Ranks must vote together, but their clocks differ: rank 0 says at each vote after how many steps the next one comes.
    """

    def __init__(self, asked: Callable[[], bool], device: torch.device, first_step: int, seconds_between: float = 1.0) -> None:
        self.asked, self.device, self.seconds_between = asked, device, seconds_between
        self.last_step, self.next_step, self.last_vote = first_step, first_step + 1, time.perf_counter()

    def __call__(self, step: int) -> bool:
        """Whether to end after this step; every rank calls it after every step."""
        if step < self.next_step:
            return False
        steps, seconds = step - self.last_step, time.perf_counter() - self.last_vote
        wanted = max(1.0, min(steps * self.seconds_between / max(seconds, 1e-9), 8.0 * steps, _MOST_STEPS))
        votes = torch.tensor([float(self.asked()), wanted if distributed.rank() == 0 else 0.0], dtype=torch.float64, device=self.device)
        stop, interval = (distributed.mean_over_ranks(votes) * distributed.world_size()).tolist()
        self.last_step, self.next_step, self.last_vote = step, step + round(interval), time.perf_counter()
        return stop > 0.5
