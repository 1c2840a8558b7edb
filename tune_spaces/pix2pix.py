"""What to search for in a Pix2Pix.

Trials are ranked by the error from the true picture, which L1 alone lowers most; its price goes from 10, where the discriminator's detail may be
wrong, to the paper's 100 and 300, where pictures begin to blur. Learning rate from half the paper's 2e-4 up to 5e-3, as short runs of small pictures
need. Dropout is the only noise, and costs error: from none to a little above the paper's half. Patches of one halving, which look at texture, or of
two, the most that 16 pixels hold.
"""

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {
        "train.optim.learning_rate": Search(1e-4, 5e-3, log=True),
        "train.optim.beta1": Choice((0.0, 0.5)),
        "task.l1_weight": Search(10.0, 300.0, log=True),
        "task.dropout": Search(0.0, 0.6),
        "task.patches.layers": Choice((1, 2)),
    }
