"""Where to look for a better map, by its distortion: how far samples are from their winner and from its neighbours on the grid.

How many units there are is no matter of a search: more of them are always nearer to samples. Nor is the learning rate of the batch
rule, which is exact at 1 where a step sees all samples.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """The order in which a map unfolds, and where it ends."""
    return {
        # Below 0.3 neighbours are on their own and the map tears; above 1.5 prototypes are means of half the map.
        "task.final_radius": Search(0.3, 1.5, log=True),
        # From a fifth of the grid, enough where the start is in order already, to all of it.
        "task.start_radius": Search(0.1, 1.0, log=True),
        # A plane is in order from the first step on; samples are not, but lie where the data is.
        "task.start": Choice(("samples", "plane")),
        # A bubble of one radius is a Gaussian of about half of it, with a sharper edge.
        "task.neighbourhood": Choice(("gaussian", "bubble")),
        # Hexagons have neighbours at one distance only.
        "task.grid": Choice(("hexagonal", "square")),
    }
