"""What to search for in a StyleGAN2.

Gamma, the weight of R1, matters most: published runs scale it from 0.01 at 32 pixels to 10 at 1,024, and strokes on a flat ground, which are told
from fakes at once, want 10 even at 32; so four decades around 1. Learning rates from a fifth to twice the published 2.5e-3, each player's own, as
their ratio decides who leads. Augmentation: none, as strong as the discriminator overfits (ada, with its target from 0.4, where it sets in early, to
0.8), or always (diff), which small sets need and large ones pay for. Momentum stays 0, as published; path lengths and mixing make latents smoother
rather than pictures better, and are left to who wants that.
"""

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Ranges by the names of the command line."""
    return {
        "task.game.gamma": Search(0.01, 100.0, log=True),
        "train.optim.learning_rate": Search(5e-4, 5e-3, log=True),
        "train.players.discriminator.learning_rate": Search(5e-4, 5e-3, log=True),
        "task.game.augment": Choice(("none", "ada", "diff")),
        "task.game.augment_target": Search(0.4, 0.8),
    }
