"""What to search for in a GAN on texts: as of a DCGAN (`tune_spaces/dcgan.py`), whose networks it has.

The text encoder is trained before, and stays as it is.
"""

from genlib.config import Search
from tune_spaces import dcgan
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return dcgan.space()
