"""What to search for in an auxiliary classifier GAN: as of a DCGAN (`tune_spaces/dcgan.py`), whose networks it has.

The weight of the class loss from 0.1, where samples begin to be of any class, to 10, where they are typical of their class and all alike.
"""

from genlib.config import Search
from tune_spaces import dcgan
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {**dcgan.space(), "task.game.class_weight": Search(0.1, 10.0, log=True)}
