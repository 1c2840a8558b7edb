"""Classes that one names: of data that have some, and by number in a request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genlib.plurals import counted
from genlib.types import DataSpec


def check_labelled(data: DataSpec, instead: str) -> None:
    """ValueError where the data names no classes; `instead` is a recipe that asks for none."""
    if not data.class_names:
        raise ValueError(
            f"this recipe makes samples of a class, but the data names none; take a set with labels such as digits, or the recipe {instead}"
        )


def check_classes(label: Sequence[int], data: DataSpec) -> None:
    """ValueError where one of the labels is no number of a class."""
    wrong = next((one for one in label if not 0 <= one < len(data.class_names)), None)
    if wrong is not None:
        raise ValueError(f"label {wrong} is not between 0 and {len(data.class_names) - 1}, the numbers of the classes")


def class_numbers(label: Sequence[int], count: int, data: DataSpec, device: torch.device) -> Tensor:
    """The labels (count,) int64 of so many samples. ValueError where they are others than one a sample, or one is no number of a class."""
    if len(label) != count:
        raise ValueError(f"label has {counted(len(label), 'entry', 'entries')} for {counted(count, 'seed')}; give one label a picture")
    check_classes(label, data)
    return torch.tensor(label, device=device)
