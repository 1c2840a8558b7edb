"""What to search for in a WGAN with clipped weights.

The limit decides how steep a critic can be: the paper's 0.01 is for wide and deep networks; in small ones gradients then vanish on their way, and it
may be thirty times that. Learning rates from the paper's 5e-5, each player's own; the critic's reaches further, as clipping undoes what is too much.
Fewer updates of the critic, from 2, as each is a step of the budget; with one alone it lags, and its estimate says nothing.
"""

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {
        "train.optim.learning_rate": Search(5e-5, 2e-3, log=True),
        "train.players.discriminator.learning_rate": Search(5e-5, 5e-3, log=True),
        "task.game.clip": Search(0.01, 0.3, log=True),
        "task.game.n_critic": Search(2, 5),
        "task.network.width": Choice((32, 64, 96, 192)),
    }
