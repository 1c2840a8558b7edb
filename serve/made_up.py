"""Made-up arguments for any action, two rows of each: what self-tests, warm-ups and the tests of all families call actions with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlib.task import Task
from serve.arguments import Arguments
from serve.backend import ModelCard

ROWS = 2
_CODES = {"code": "embed", "codes": "encode_codes", "direction": "embed"}
"""The action that makes what an argument takes."""
_PLAIN: dict[Any, Any] = {list[int]: [0, 1], list[float]: [0.0, 1.0], list[str]: ["one", "two"], int: 1, float: 0.5, str: "one"}


_FEW = {"steps": 2, "count": 1}
"""Numbers that need not be as large as usual."""


def arguments(task: Task, known: Arguments, card: ModelCard, *, rows: int = ROWS) -> dict[str, Any] | None:
    """All that an action needs, of so many rows, and few steps; None where it needs what cannot be made up."""
    made: dict[str, Any] = {}
    for name in known.required:
        value = tensor(task, name, card, rows) if known.kinds[name] is Tensor else _PLAIN.get(known.kinds[name])
        if value is None:
            return None
        made[name] = value if name not in known.rows else value[:rows] if isinstance(value, np.ndarray) else (value * rows)[:rows]
    return {**made, **{name: few for name, few in _FEW.items() if known.kinds.get(name) is int}}


def tensor(task: Task, name: str, card: ModelCard, rows: int) -> np.ndarray | None:
    """What a tensor argument of that name takes: a code, a mask of the upper half, else samples."""
    if name in _CODES:
        maker = getattr(task, _CODES[name], None)
        made = maker(image=torch.from_numpy(samples(task, card, rows))).cpu() if maker else None
        return None if made is None else made[0].numpy() if name == "direction" else made.numpy()
    if name == "mask":
        return np.stack([np.arange(card.image_size)[:, None] * np.ones(card.image_size) < card.image_size / 2] * rows)[:, None].astype(np.float32)
    return samples(task, card, rows)


def samples(task: Task, card: ModelCard, rows: int) -> np.ndarray:
    """Images (rows, C, side, side) in [0, 1], or vectors (rows, D), each row its own."""
    shape = getattr(getattr(task, "shape", None), "sides", None) or (card.channels, card.image_size, card.image_size)
    return np.stack([np.random.default_rng(row).random(shape, np.float32) for row in range(rows)])
