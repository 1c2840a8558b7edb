"""Where the autoencoder is searched: by its held-out squared error at a code of the size that the user asks for.

* `task.latent_dim` stays as it is: more numbers are always nearer to the sample, so a search would only take the most.
* `task.network` and `task.widths`: how a code of that size is best used; a tied decoder has half the weights to learn.
* Learning rates from 3e-4 to 5e-3: below it a short run does not arrive, above it units die.
* The batch stays, so that a step of every trial costs about the same.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Names as on the command line."""
    return {
        "task.network": Choice(("dense", "tied")),
        "task.widths": Choice(((256,), (512,), (512, 256), (512, 512))),
        "train.optim.learning_rate": Search(3e-4, 5e-3, log=True),
    }
