"""Where a search looks for the settings of `ddpm`.

The loss that ranks trials is a mean of squared errors of `v` over all noise levels, so whatever changes its weighting or target
(`task.process`) is left alone: it would change the measure, not the model.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Search ranges by name.

    * learning rate: 2e-3 is the recipe's, with a factor of seven below and three above; gradients are clipped, so more is no danger, only noise.
    * beta2: the gradient's scale changes with the drawn noise levels, and 0.999 remembers 1,000 steps, more than the recipe has.
    * EMA half-life in samples: from a few steps to a third of the recipe's 77,000 samples; longer ones average in the start.
    * batch and steps stay the recipe's: at an equal number of steps the larger batch wins, whatever it costs.
    * label dropout: 0.1 to 0.2 in the literature (arXiv:2207.12598); more takes samples from what is scored, the conditional loss.
    * widths: half to one and a half of the recipe's, the second level twice the first as the pictures shrink to a quarter.
    * dropout: the recipe shows each of 1,437 digits 53 times, so some may help; DDPM itself used 0.1 on CIFAR-10 (arXiv:2006.11239).
    """
    return {
        "train.optim.learning_rate": Search(3e-4, 6e-3, log=True),
        "train.optim.beta2": Choice((0.95, 0.99, 0.999)),
        "train.ema_halflife_samples": Search(500, 25_000, log=True),
        "task.label_dropout": Search(0.02, 0.2, log=True),
        "task.unet.widths": Choice(((24, 48), (48, 96), (72, 144))),
        "task.unet.dropout": Choice((0.0, 0.05, 0.1)),
    }
