"""What to search for in a ProGAN.

The paper holds Adam at 1e-3 with betas 0 and 0.99 for both players, the penalty at 10 and one update of the critic for each one of the generator, for
every set and size. Layers learn at one rate, so rates apart are worth less than elsewhere, and each player's own may still be; short runs take more.
The penalty from 1 to 30. How long a resolution is trained before the next one fades in is time: too short, and fine detail is learnt on a layout that
is not there yet; too long, and there is no time left for the last.
"""

from genlib.config import Search


def space() -> dict[str, Search]:
    """Ranges by the names of the command line."""
    return {
        "train.optim.learning_rate": Search(2e-4, 5e-3, log=True),
        "train.players.discriminator.learning_rate": Search(2e-4, 5e-3, log=True),
        "task.game.penalty": Search(1.0, 30.0, log=True),
        "task.network.growing.stable_samples": Search(2_000, 16_000, log=True),
        "task.network.growing.fade_samples": Search(1_000, 16_000, log=True),
    }
