"""What a run tells whoever started it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from genlib.engine.report import Row


class Listener:
    """What the caller hears of a run, on every rank; this one does nothing."""

    def on_start(self) -> None:
        """The first step is through: what could be refused would have been by now. Every rank hears it."""

    def on_log(self, row: Row) -> None:
        """A live line was printed; `row` is what it says, averaged over ranks. Rank 0 alone hears it."""

    def on_evaluate(self, step: int, values: Mapping[str, float], trouble: str) -> None:
        """The held-out samples were scored after so many steps; `trouble` is why it is no use to train on, or empty. Every rank hears it."""

    def stop_asked(self) -> bool:
        """Whether this rank knows that the run is to save a checkpoint and end now; every rank is asked about once a second."""
        return False

    def on_checkpoint(self, folder: Path, row: Row) -> None:
        """A whole checkpoint exists at `folder`, the same path on every rank; `row` has step and samples_seen, and on rank 0 the last metrics."""
