"""Where the fine-tuning of a deep belief network is searched: by its error on held-out samples. The stack below is trained once, for all trials.

* Learning rates from 3e-4 to 3e-2: below it a few hundred steps do not move far from the stack, above it they forget it.
* `train.optim.beta1`: the usual momentum against none, as a start that is good already needs no pace.
* Weight decay: none, or up to where weights lose a tenth of themselves in a recipe's steps.
* `task.gain` and `task.layers` are of random weights alone; whether to start from the stack is what one wants to know, so no search answers it.
* The sizes and rules of the RBMs are those of other stages: `--stage layer1` searches them, by pseudo-likelihood.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Names as on the command line."""
    return {
        "train.optim.learning_rate": Search(3e-4, 3e-2, log=True),
        "train.optim.beta1": Choice((0.0, 0.5, 0.9)),
        "train.optim.weight_decay": Choice((0.0, 1e-3, 1e-2, 1e-1)),
    }
