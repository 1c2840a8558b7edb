"""What to search for in a Pix2Pix of 256 pixels, on GPUs: as of a small one (`tune_spaces/pix2pix.py`), with patches of 34 or 70 pixels."""

from genlib.config import Search
from tune_spaces import pix2pix
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {**pix2pix.space(), "task.patches.layers": Choice((2, 3))}
