"""What to search for in a WGAN-GP.

The paper holds the penalty at 10, the critic at 5 updates and Adam at 1e-4 with betas 0 and 0.9 for every set and network; a search is worth its time
where that is careful. Learning rates go up to 2e-3, for short runs, each player's own; its first decay of 0 against DCGAN's 0.5. The penalty from 1,
where slopes already stay near 1 on small data, to 30. Fewer updates of the critic, from 2, as each is a step of the budget; with one alone it lags,
and its estimate says nothing.
"""

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {
        "train.optim.learning_rate": Search(5e-5, 2e-3, log=True),
        "train.players.discriminator.learning_rate": Search(5e-5, 2e-3, log=True),
        "train.optim.beta1": Choice((0.0, 0.5)),
        "train.players.discriminator.beta1": Choice((0.0, 0.5)),
        "task.game.penalty": Search(1.0, 30.0, log=True),
        "task.game.n_critic": Search(2, 5),
    }
