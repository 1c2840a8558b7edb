"""What to search for in an InfoGAN: as of a DCGAN (`tune_spaces/dcgan.py`), and what a nat of information weighs.

The category's weight about the paper's 1: far below, the generator may pass the category over, far above, it makes what is easiest to tell apart
instead of what is like data. The numbers' is smaller, as their log-density has no upper end. How many categories there are is the user's to say.
"""

from genlib.config import Search
from tune_spaces import dcgan
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    weights = {"task.codes.category_weight": Search(0.2, 3.0, log=True), "task.codes.number_weight": Search(0.01, 1.0, log=True)}
    return {**dcgan.space(), **weights}
