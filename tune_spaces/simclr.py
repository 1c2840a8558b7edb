"""Where a search looks for the settings of `simclr`.

Trials are ranked by the vote of neighbours on plain held-out images, which means the same at any temperature and augmentation; the
loss does not. The vote is among the images of a batch, so the batch stays the recipe's: another would be another measure.
"""

from __future__ import annotations

from genlib.config import Search
from tune_spaces.base import Choice


def space() -> dict[str, Search | Choice]:
    """Search ranges by name.

    * temperature: the paper's table 5 has its best at 0.1 and loses at 0.05 and at 1; in between lies a factor of 20, hence the logarithm.
    * learning rate: AdamW's over some hundred steps. On shapes 300 steps at 2e-3 gave a linear probe of 93.8%, at 6e-3 98.5%; the range
      goes a factor of three beyond both.
    * weight decay: kernels are standardised, so it sets how fast their directions turn, not how large they are; three decades.
    * zoom, colour and grey: what two views do not share is what the features forget, and only the data can say what may go. From hardly
      any to the paper's strength (its crops of 8% of the area are a zoom of 3.5, which leaves too little of a small image).
    * rotation: beyond 30 degrees a cross is no longer a cross; on sets of things that stand upright even less.
    * size of the projection: hardly matters in the paper's figure 8, so three values are enough.
    """
    return {
        "task.temperature": Search(0.05, 1.0, log=True),
        "train.optim.learning_rate": Search(6e-4, 2e-2, log=True),
        "train.optim.weight_decay": Search(1e-4, 0.1, log=True),
        "task.augmentation.max_scale": Search(1.1, 3.0),
        "task.augmentation.color": Search(0.1, 1.0),
        "task.augmentation.grey": Search(0.0, 0.5),
        "task.augmentation.degrees": Search(0.0, 30.0),
        "task.embed_dim": Choice((32, 64, 128)),
    }
