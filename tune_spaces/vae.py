"""Where the VAE is searched: by its held-out negative bound in nats, which beta and warm-up only change through training.

* `task.latent_dim` 4 to 64: the bound punishes a number that earns nothing no more than by noise, so too many cost little, too few a lot.
* `task.rate_warmup` up to half of the run: a rate that costs nothing at first keeps numbers of the code from being given up early.
* `task.beta` stays 1: it is the bound that is judged, and no other price trains it better (Alemi et al. 2018, arXiv:1711.00464).
* `task.likelihood` stays too: nats under two likelihoods cannot be compared.
* Depth and width decide most of the distortion. Two sizes of dense layers around the recipe's own.
* Learning rates from 3e-4 to 5e-3: below it a short run does not arrive, above it the rate explodes. The batch stays, so that a step
  of every trial costs about the same.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Names as on the command line."""
    return {
        "task.latent_dim": Search(4, 64, log=True),
        "task.rate_warmup": Search(0.0, 0.5),
        "task.widths": Choice(((512,), (512, 256), (512, 512))),
        "train.optim.learning_rate": Search(3e-4, 5e-3, log=True),
    }
