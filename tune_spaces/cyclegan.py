"""What to search for in a CycleGAN.

The cycle's price is the paper's 10 within a factor of five: below 2 a translation may be of another picture, above 30 it changes nothing. Identity
from 0, which lets colours go, to 1, twice the paper's share, which keeps them where sets differ in little else. One learning rate for both players,
from half the paper's 2e-4 up to 2e-3, as short runs of small pictures need. Patches of one halving, which look at texture, or of two, the most that
16 pixels hold.
"""

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {
        "train.optim.learning_rate": Search(1e-4, 2e-3, log=True),
        "train.optim.beta1": Choice((0.0, 0.5)),
        "task.cycle_weight": Search(2.0, 30.0, log=True),
        "task.identity_weight": Search(0.0, 1.0),
        "task.patches.layers": Choice((1, 2)),
    }
