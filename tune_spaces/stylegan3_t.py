"""What to search for in a StyleGAN3 of configuration T: as of a StyleGAN2 (`tune_spaces/stylegan2.py`), with gamma from 0.1.

Its published commands name 6.6 and 8.2 at 512 and 1,024 pixels; a decade and a half below is as weak as is worth a trial.
"""

from genlib.config import Search
from tune_spaces import stylegan2
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {**stylegan2.space(), "task.game.gamma": Search(0.1, 100.0, log=True)}
