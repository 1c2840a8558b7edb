"""What to search for in a DCGAN.

The paper names 2e-4 as the learning rate, and that 1e-3 is too high for pictures of 64 pixels; small pictures and short runs take more, so the
range goes up to 2e-3, for each player apart. Its momentum of 0.5 against none. Smoothing and a few flipped labels slow down a discriminator that
wins: beyond 0.3 and 5% it is told too little. Width is time: twice the channels, four times the work.
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
        "task.game.label_smoothing": Search(0.0, 0.3),
        "task.game.label_flips": Search(0.0, 0.05),
        "task.network.width": Choice((16, 32, 48)),
    }
