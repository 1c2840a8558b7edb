"""What to search for in a WGAN-GP on points; see `tune_spaces/wgan_gp.py`.

Modes that are narrow beside the way between them ask for a critic that is steep there, so the penalty goes down to the 0.1 of the authors' own
toy examples, and no higher than the paper's 10. Steps are cheap: learning rates reach five times the recipe's, and below a tenth of them a short run
does not arrive. Fewer updates of the critic, from 2, as each is a step of the budget; with one alone it lags. Width: below 32 neither player can part
eight modes, above 192 they are slow.
"""

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {
        "train.optim.learning_rate": Search(1e-4, 5e-3, log=True),
        "train.players.discriminator.learning_rate": Search(2e-4, 1e-2, log=True),
        "train.optim.beta1": Choice((0.0, 0.5)),
        "train.players.discriminator.beta1": Choice((0.0, 0.5)),
        "task.game.penalty": Search(0.1, 10.0, log=True),
        "task.game.n_critic": Search(2, 5),
        "task.network.width": Choice((32, 64, 96, 192)),
    }
