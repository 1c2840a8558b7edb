"""What to search for in R3GAN's game (arXiv:2501.05441): as of a StyleGAN2 (`tune_spaces/stylegan2.py`), with both penalties at every step.

Gamma from 0.05 to 150, as the paper's sets take it by their size. Momentum of 0, as in the paper.
"""

from genlib.config import Search
from tune_spaces import stylegan2
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {**stylegan2.space(), "task.game.gamma": Search(0.05, 150.0, log=True)}
