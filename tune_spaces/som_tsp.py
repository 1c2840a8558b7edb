"""Where to look for a shorter round trip; see `tune_spaces/som.py`. The grid is a ring, and its learning rate exact at 1."""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """How the ring unfolds."""
    return {
        # Half of the ring at most: with more, every unit is pulled to the middle and the first steps are lost.
        "task.start_radius": Search(0.05, 0.5, log=True),
        # Below 0.2 nothing pulls a neighbour any more; above 1 the ring cuts corners and passes cities by.
        "task.final_radius": Search(0.2, 1.0, log=True),
        "task.start": Choice(("samples", "plane")),
        "task.rule": Choice(("batch", "online")),
    }
