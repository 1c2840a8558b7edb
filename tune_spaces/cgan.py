"""What to search for in a conditional GAN: as of a DCGAN (`tune_spaces/dcgan.py`), whose networks it has.

Replay shows the discriminator up to half of its fakes again, which keeps it from forgetting; with more of them it would learn what the generator no
longer does.
"""

from genlib.config import Search
from tune_spaces import dcgan
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {**dcgan.space(), "task.game.replay": Choice((0, 256, 1024)), "task.game.replay_share": Search(0.1, 0.5)}
