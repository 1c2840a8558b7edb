"""Where the beta-VAE is searched: by its held-out negative bound in nats, at the price of the rate that the user asks for.

The bound does not say how well the code takes factors apart: `mutual_information_gap` does, among the final scores of the best trials.

* `task.beta` stays as it is: the bound is best at 1, so a search would only undo it.
* `task.rate_warmup` stays 0: half-way, trials that do not pay the whole price yet look better than they will be.
* `task.latent_dim` 6 to 20: the shapes have five factors, the place alone takes two; numbers that earn nothing cost nothing.
* `task.widths`: channels of the convolutions around the recipe's own.
* Learning rates from 3e-4 to 5e-3: below it a short run does not arrive, above it the rate explodes.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Names as on the command line."""
    return {
        "task.latent_dim": Search(6, 20),
        "task.widths": Choice(((16, 32), (32, 64), (64, 128))),
        "train.optim.learning_rate": Search(3e-4, 5e-3, log=True),
    }
