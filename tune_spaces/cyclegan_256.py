"""What to search for in a CycleGAN of 256 pixels, on GPUs: as of one of 16 (`tune_spaces/cyclegan.py`), with patches of 34 or 70 pixels."""

from genlib.config import Search
from tune_spaces import cyclegan
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {**cyclegan.space(), "task.patches.layers": Choice((2, 3))}
