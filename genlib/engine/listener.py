"""What a run tells whoever started it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from genlib.engine.report import Row


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The scores of held-out samples after so many steps, and why what they show is no use to train on, or empty."""

    step: int
    values: Mapping[str, float]
    trouble: str


class Listener:
    """What the caller hears of a run, on every rank; this one does nothing."""

    def on_start(self) -> None:
        """The first step is through: what could be refused would have been by now. Every rank hears it."""

    def on_step(self, done: int) -> None:
        """So many steps are done. Every rank hears of every step of its own; it is part of that step's time."""

    def on_log(self, row: Row) -> None:
        """A live line was printed; `row` is what it says, averaged over ranks. Rank 0 alone hears it."""

    def on_times(self, seconds: Mapping[str, float], steps: int) -> None:
        """Lines are due: what so many steps of this rank took in all, by the names of metrics.jsonl. Every rank hears of its own."""

    def stop_asked(self) -> bool:
        """Whether this rank knows that the run is to save a checkpoint and end now; every rank is asked about once a second."""
        return False

    def on_checkpoint(self, folder: Path, row: Row, evaluated: Evaluated | None) -> None:
        """A checkpoint is sealed at `folder`, the same path on every rank; every rank hears it, after the same step, which may be a later one.

        `row` has its step, samples_seen and seal_seconds, from the begin of its save to its seal, and on rank 0 the last metrics by then;
        `evaluated` is the last evaluation by then.
        """
