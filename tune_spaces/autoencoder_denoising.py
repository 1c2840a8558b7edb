"""Where the denoising autoencoder is searched: by its held-out squared error against samples without noise.

* `task.latent_dim` 16 to 256: a small code drops noise with detail, a large one keeps both.
* `task.widths`: channels of the convolutions around the recipe's own.
* Learning rates from 3e-4 to 5e-3: below it a short run does not arrive, above it units die.
* `task.noise` stays: what is to be taken away is the user's to say.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Names as on the command line."""
    return {
        "task.latent_dim": Search(16, 256, log=True),
        "task.widths": Choice(((32, 64), (48, 96), (64, 128))),
        "train.optim.learning_rate": Search(3e-4, 5e-3, log=True),
    }
