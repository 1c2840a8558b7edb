"""What was computed of numbered pictures, wherever it was."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genlib import distributed


class NumberedRows:
    """Tensors with a row for each picture, added batch by batch in any order."""

    def __init__(self) -> None:
        self._index: list[Tensor] = []
        self._values: dict[str, list[Tensor]] = {}

    def add(self, index: Tensor, values: Mapping[str, Tensor]) -> None:
        """Takes in pictures by number (B,) int64, and (B, ...) by name, the same names each time."""
        self._index.append(index.cpu())
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.cpu())

    def over_ranks(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """All ranks' rows by name, on the CPU, in the order of their numbers; `device` is where collectives work. Every rank has added some."""
        index = _gathered(torch.cat(self._index), device)
        order = index.argsort(stable=True)
        return {name: _gathered(torch.cat(values), device)[order] for name, values in sorted(self._values.items())} | {"index": index[order]}


def _gathered(values: Tensor, device: torch.device | str) -> Tensor:
    """(B_r, ...) of each rank, one after the other; ranks may have different numbers of rows."""
    counts = distributed.all_gather_object(len(values))
    if len(counts) == 1:
        return values
    most = max(counts)
    padded = torch.cat([values, values.new_zeros(most - len(values), *values.shape[1:])])
    parts = distributed.all_gather(padded.to(device)).cpu().split(most)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
