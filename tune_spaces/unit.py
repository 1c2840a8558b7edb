"""What to search for in a UNIT.

Its prices hang together, so the adversarial one stays the paper's 10 and others move against it: distortion from 20, where codes forget the picture,
to 300, where a translation keeps the colours it should change; the rate over a decade around its 0.1. The code's price, which the paper has not, from
0, where both domains' codes drift apart, to 50. One learning rate, from the paper's 1e-4 up to 2e-3 for short runs.
"""

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {
        "train.optim.learning_rate": Search(1e-4, 2e-3, log=True),
        "train.optim.beta1": Choice((0.0, 0.5)),
        "task.distortion_weight": Search(20.0, 300.0, log=True),
        "task.rate_weight": Search(0.03, 0.3, log=True),
        "task.code_weight": Search(0.0, 50.0),
    }
