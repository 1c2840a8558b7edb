"""AdamW with state of 8 bits (Dettmers et al. 2022, arXiv:2110.02861) by bitsandbytes, on a CPU as on a GPU: two bytes a number of a weight, and two
scales for each block of 256 numbers of the flattened weight. Needs the extra: `pip install 'genlib[8bit]'`."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

try:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels for inference
    from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    raise ValueError(f"train.optim.name adamw_8bit needs {error.name}, which is not installed; `pip install 'genlib[8bit]'`, or use adamw") from None


class SavedAdamW8bit(AdamW8bit):
    """The library's, with a state of tensors alone that are the weight's own: a count of steps, codes (`state1`, `state2`) and their scales."""

    def init_state(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        super().init_state(group, p, gindex, pindex)
        self.state[p]["step"] = torch.zeros(())
        self._without_maps(p)

    def update_step(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        state = self.state[p]
        step = state["step"]
        state.update(step=int(step), qmap1=self._map("dynamic", p), qmap2=self._map("udynamic", p))
        super().update_step(group, p, gindex, pindex)
        state["step"] = step.fill_(state["step"])
        self._without_maps(p)

    def _map(self, name: str, weight: Tensor) -> Tensor:
        """What number each of the 256 codes stands for, the same for all weights."""
        self.name2qmap[name] = self.name2qmap[name].to(weight.device)
        return self.name2qmap[name]

    def _without_maps(self, weight: Tensor) -> None:
        for key in ("qmap1", "qmap2"):
            self.state[weight].pop(key, None)

    def blank_state(self, like: Tensor) -> dict[str, Tensor]:
        """State of a weight of this shape, to be filled."""
        weight = nn.Parameter(like)
        self.init_state(self.param_groups[0], weight, 0, 0)
        return self.state.pop(weight)
