"""All strategies by name."""

from __future__ import annotations

import torch

from genlib import distributed
from genlib.engine.ddp import DistributedDataParallel
from genlib.engine.single import SingleDevice
from genlib.engine.strategy import Strategy
from genlib.engine.zero import Zero


def strategy_of(name: str, device: torch.device) -> Strategy:
    """The strategy of that name; `auto` is single with one process and ddp with more. What it cannot train `strategy_refusal` says before."""
    if name == "auto":
        name = "single" if distributed.world_size() == 1 else "ddp"
    if name == "single":
        return SingleDevice(device)
    return DistributedDataParallel(device) if name == "ddp" else Zero(int(name.removeprefix("zero")), device)
