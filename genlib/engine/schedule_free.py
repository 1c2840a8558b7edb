"""Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682) by pytorch_optimizer, with a count of steps for each weight.

Weights y are trained, and lie between an average x, which is what is learnt, and z, which AdamW moves: y = beta1 x + (1 - beta1) z. Beside
y the optimizer keeps z and the mean of squared gradients, as many numbers as AdamW; x follows from y and z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_optimizer import ScheduleFreeAdamW
from torch import Tensor

COUNTERS = {"step": "step", "weight_sum": "weight_sum", "rate_max": "lr_max"}
"""What is counted, in the state of a weight and in the library's groups."""


class WeightwiseScheduleFree(ScheduleFreeAdamW):
    """The library's, which counts steps and adds up learning rates in each group: here each weight has its own count.

    So a weight without a gradient stays as it is, and DeepSpeed may update one part of the weights after the other.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of the weights that have a gradient; those that have the same count go together."""
        own, together = self.param_groups, {}
        for number, group in enumerate(own):
            self.init_group(group)
            for weight in group["params"]:
                if weight.grad is not None:
                    state = self.state[weight]
                    if "step" not in state:
                        state.update(blank_counters())
                    counts = {theirs: state[ours].item() for ours, theirs in COUNTERS.items()}
                    together.setdefault((number, *counts.values()), {**group, **counts, "params": []})["params"].append(weight)
        self.param_groups = list(together.values())
        try:
            super().step()
            for group in self.param_groups:
                for weight in group["params"]:
                    for ours, theirs in COUNTERS.items():
                        self.state[weight][ours].fill_(group[theirs])
        finally:
            self.param_groups = own

    def blank_state(self, like: Tensor) -> dict[str, Tensor]:
        """State of a weight of this shape, to be filled."""
        return {"z": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like), **blank_counters()}


def blank_counters() -> dict[str, Tensor]:
    """Of a weight that has not moved. In float64, as the library's Python numbers are, and never on a GPU, as they are read in each step."""
    return {
        "step": torch.zeros((), dtype=torch.float64),
        "weight_sum": torch.zeros((), dtype=torch.float64),
        "rate_max": torch.full((), -1.0, dtype=torch.float64),
    }
