"""Where to look for a better RBM of numbers, by score matching on held-out samples in units of their spread.

Score matching sees how steep the density is where samples are, and not what lies where there are none: read `log_likelihood` of the best
ones at the end, which falls where a model believes in places without samples.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Noise and learning rate go together, so both are wide."""
    return {
        # As a share of the data's spread: the width of the narrowest mode is right, and below 0.05 chains no longer leave one.
        "task.noise": Search(0.05, 1.0, log=True),
        # Samples are long vectors in units of small noise, and the rule goes by their square: at 0.03 and a noise of 0.2 weights ran away.
        "train.optim.learning_rate": Search(1e-4, 2e-2, log=True),
        # A step costs two matrix products, so ten take four times as long as one.
        "task.gibbs_steps": Search(1, 10, log=True),
        # 0 starts chains at the data, and so never sees modes that no sample is near.
        "task.chains": Choice((0, 100, 500)),
        # Each halves the space; eight modes took more than 32 to part.
        "task.hidden": Search(32, 512, log=True),
    }
