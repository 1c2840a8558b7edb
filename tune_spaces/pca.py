"""Where linear autoencoders are searched: how fast plain SGD turns their subspace to that of the principal components.

* `task.latent_dim` stays as it is: more components always keep more.
* Learning rates from 0.3 to 5: below it a short run does not arrive, above it momentum throws the weights away.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Names as on the command line."""
    return {"train.optim.learning_rate": Search(0.3, 5.0, log=True), "train.optim.momentum": Search(0.8, 0.98)}
