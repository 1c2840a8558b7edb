"""All strategies by name."""

from __future__ import annotations

import torch

from genlib import distributed
from genlib.engine.ddp import DistributedDataParallel
from genlib.engine.single import SingleDevice
from genlib.engine.strategy import Strategy
from genlib.engine.zero import Zero
from genlib.recipe import chosen_strategy


def strategy_of(wanted: str, device: torch.device) -> Strategy:
    """The strategy of that name. What it cannot train `strategy_refusal` says before."""
    name = chosen_strategy(wanted, distributed.world_size())
    if name == "single":
        return SingleDevice(device)
    return DistributedDataParallel(device) if name == "ddp" else Zero(int(name.removeprefix("zero")), device)
