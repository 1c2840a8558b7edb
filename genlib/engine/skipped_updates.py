"""Updates that all ranks skip, as a loss or a gradient is not finite: counted, and named with the samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genlib import distributed
from genlib.config import TrainConfig
from genlib.engine.strategy import Update
from genlib.task import Phase
from genlib.types import Batch, DataSource, Step


class SkippedUpdates:
    """How many a run has skipped."""

    def __init__(self, source: DataSource, config: TrainConfig) -> None:
        self.source, self.config = source, config
        self.count = self.in_a_row = 0

    def note(self, update: Update, phase: Phase, step: Step, micro_batches: Sequence[Batch]) -> None:
        """Counts and names a skipped update; FloatingPointError after too many in a row. All ranks know of every skip."""
        if update.applied:
            self.in_a_row = 0
            return
        self.count += 1
        self.in_a_row += 1
        here = None
        if not update.metrics["loss"].isfinite():
            positions = torch.cat([batch["position"] for batch in micro_batches]).tolist()
            size = self.config.global_batch // self.config.accumulation
            names = self.source.keys("train", [positions[0], positions[-1]], size, seed=self.config.seed)
            here = f"the loss of rank {distributed.rank()} (samples {' to '.join(names)})"
        culprits = [text for text in distributed.all_gather_object(here) if text] or ["a gradient"]
        sentence = f"step {step.index + 1}, phase {phase.name}: {' and '.join(culprits)} is not finite"
        if self.in_a_row >= self.config.max_skipped_in_a_row:
            raise FloatingPointError(f"{sentence}, {self.in_a_row} times in a row; lower the learning rate, clip gradients or look at these samples")
        if distributed.rank() == 0:
            print(f"{sentence}: skipped, {self.count} in all", flush=True)
