"""What to search for in a StyleGAN 1.

Gamma, the weight of R1, and both learning rates as for `stylegan2`, for the same reasons; the published run holds gamma at 10 for 1,024 pixels and
takes rates from 1e-3 to 3e-3 as resolution grows. How long a resolution is trained before the next one fades in, and how long it fades, is time: too
short, and detail is learnt on a layout that is not there yet; too long, and none is left for the last. Whether layers add noise: small networks vary
little in layout without.
"""

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {
        "task.game.gamma": Search(0.01, 100.0, log=True),
        "train.optim.learning_rate": Search(5e-4, 5e-3, log=True),
        "train.players.discriminator.learning_rate": Search(5e-4, 5e-3, log=True),
        "task.network.layer_noise": Choice((True, False)),
        "task.network.growing.stable_samples": Search(2_000, 16_000, log=True),
        "task.network.growing.fade_samples": Search(1_000, 16_000, log=True),
    }
