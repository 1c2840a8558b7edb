"""Where to look for a better RBM, by its held-out pseudo-likelihood.

The partition function is out of reach while a search runs; the pseudo-likelihood is not, and falls where a model learns its samples by
heart. Read `log_likelihood` of the best ones at the end: chances given all other units may be good where the modes' shares are not.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """The rule first, then the size."""
    return {
        # Plain SGD on a noisy rule: below 0.01 little is learnt in a recipe's steps, above 0.3 chains fall behind and weights run away.
        "train.optim.learning_rate": Search(0.01, 0.3, log=True),
        # Hinton's guide begins with 0.5; 0.9 is ten times the rate in effect.
        "train.optim.momentum": Choice((0.0, 0.5, 0.9)),
        # Keeps chains mixing, as steep weights hold units fast; more than 0.01 holds the features back.
        "train.optim.weight_decay": Search(1e-5, 1e-2, log=True),
        # A step costs two matrix products, so ten take four times as long as one.
        "task.gibbs_steps": Search(1, 10, log=True),
        # 0 starts chains at the data; persistent ones average away less of the noise where they are few.
        "task.chains": Choice((0, 100, 500)),
        # From fewer hidden units than pixels of small pictures to many times more.
        "task.hidden": Search(32, 1024, log=True),
    }
