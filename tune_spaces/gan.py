"""What to search for in a dense GAN.

Whether it covers all modes is a matter of balance: both learning rates, within a factor of ten of what works (1e-3 and 2e-3 on `rings2d`), and apart
from each other, for the ratio matters more than either (Heusel et al. 2017, arXiv:1706.08500). Momentum makes players circle each other (Mescheder et
al. 2018, arXiv:1801.04406): 0 and the usual 0.5. Smoothing up to 0.3 keeps the discriminator from certainty, beyond it is told little; more updates
of the discriminator cost as much as steps and help only while it lags. Width: below 32 it cannot part eight modes, above 256 it is slow.
"""

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {
        "train.optim.learning_rate": Search(1e-4, 5e-3, log=True),
        "train.players.discriminator.learning_rate": Search(1e-4, 1e-2, log=True),
        "train.optim.beta1": Choice((0.0, 0.5)),
        "train.players.discriminator.beta1": Choice((0.0, 0.5)),
        "task.game.label_smoothing": Search(0.0, 0.3),
        "task.game.d_steps": Search(1, 3),
        "task.network.width": Choice((32, 64, 128, 256)),
    }
