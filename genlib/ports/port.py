"""What a port is, and what a task's ports measure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genlib.plurals import counted

BATCH = "batch"
"""The axis of rows."""
MAX_SEED = 2**63 - 1
_TOLERANCE = 1e-4
"""By which rounding may carry a number beyond its range."""
_SAID = 10**20
"""Below which a number is repeated where it is refused."""
_LARGEST = 10**6
"""Largest plain number without a range of its own: what lies beyond is no setting of any model, and overflows in some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What a trained task's ports measure: lengths of named axes, 0 where the task has no such axis or takes any length."""

    channels: int = 0
    side: int = 0
    """Pixels a side of its images."""
    multiple: int = 0
    """Its images may have other sides too, multiples of so many pixels; 0: `side` alone."""
    vector: int = 0
    """Numbers of a sample, where samples are no images."""
    code: int = 0
    """Numbers of a sample's code."""
    code_grid: int = 0
    """Codes a side, where an image's code is a grid of entries of a codebook."""
    codebook: int = 0
    """Entries of that codebook."""
    classes: tuple[str, ...] = ()
    """Names of the classes it knows."""
    max_steps: int = 0
    """Most denoising steps that differ; 0 where nothing is denoised."""

    def of(self, axis: str) -> int:
        """Length of a named axis; 0 is any."""
        lengths = {
            "channel": self.channels, "height": self.side, "width": self.side, "feature": self.vector, "code": self.code,
            "row": self.code_grid, "column": self.code_grid, "class": len(self.classes), "single": 1,
        }  # fmt: skip
        return lengths.get(axis, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """What a value is."""

    kind: str
    """Its name, which stands in schemas as `x-port`."""
    axes: tuple[str, ...] = ()
    """Of an array or list, by name; () is a single value."""
    low: float | None = None
    high: float | None = None
    """The range of its numbers, ends included; None has no end."""
    whole: bool = False
    """Whether its numbers are integers."""
    picture: bool = False
    """Whether it is shown as an image file: axes (..., channel, height, width) in [0, 1]."""
    choices: tuple[str, ...] = ()
    """All values there are, where they are names."""
    limit: Literal["", "steps", "side", "pictures"] = ""
    """Which of a server's limits bounds the value, or the length of a list."""
    repeats: bool = False
    """Whether a request costs as many times as much as the value says."""
    few: int | None = None
    """The value of an example, where the usual one takes long."""

    @property
    def rows(self) -> bool:
        """Whether it has an entry for each row."""
        return BATCH in self.axes

    def example(self, sizes: Sizes, rows: int, seed: int = 0) -> Any:
        """A value that the task takes, tensors as numpy arrays (float32 or int64); each row is its own whatever the number of rows."""
        if self.few is not None:
            return self.few
        high = (sizes.codebook or 2) if self.whole else 1.0
        if not self.axes:
            return 1 if self.whole else 0.5
        shape = [sizes.of(axis) or 2 for axis in self.axes[1:]] if self.axes[0] == BATCH else None
        if shape is None:
            return self._numbers(np.random.default_rng(seed + 1000), [sizes.of(axis) or 2 for axis in self.axes], high)
        return np.stack([self._numbers(np.random.default_rng(seed + row), shape, high) for row in range(rows)])

    def _numbers(self, generator: np.random.Generator, shape: Sequence[int], high: float) -> np.ndarray:
        return generator.integers(0, int(high), shape) if self.whole else generator.random(shape, np.float32)

    @property
    def array(self) -> bool:
        """Whether it is a tensor, which JSON writes as a picture, a list of pictures, or lists of numbers."""
        return bool(self.axes)

    @property
    def visible(self) -> bool:
        """Whether it may be given as pictures."""
        return self.axes[-2:] == ("height", "width")

    def plain(self, limits: Mapping[str, int]) -> dict[str, Any]:
        """JSON schema of one entry of a list, or of a single value, where a server's limits are these."""
        low, high = self.bounds(limits)
        return {"type": "integer" if self.whole else "number", "minimum": low, "maximum": high}

    def bounds(self, limits: Mapping[str, int]) -> tuple[float, float]:
        """Lowest and highest value that is taken, where a server's limits are these."""
        high = _LARGEST if not self.whole else MAX_SEED
        ends = [end for end in (self.high, limits.get(self.limit) if not self.axes else None) if end is not None]
        return -high if self.low is None else self.low, min([high, *ends])

    def taken(self, value: Any, limits: Mapping[str, int] | None = None) -> Any:
        """A value as a request has it -> as the action takes it, arrays as tensors on the CPU. ValueError says in a few words what it must be.

        Bytes (uint8) are levels of pictures, which become numbers in [0, 1].
        """
        if not self.array:
            return number_of(value, self, limits or {})
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or not value.ndim:
            raise ValueError("must be numbers in rows")
        if value.ndim not in self._dims():
            raise ValueError(f"of shape {value.shape} has not the axes of {self.kind}: {', '.join(self.axes)}")
        if self.rows and not len(value):
            raise ValueError("is empty; give at least one entry")
        if value.dtype == np.uint8 and not self.whole:
            numbers = value.astype(np.float32)
            return torch.from_numpy(np.divide(numbers, np.float32(255), out=numbers))
        return torch.from_numpy(value.astype(np.int64 if self.whole and value.dtype.kind in "iub" else np.float32))

    def _dims(self) -> Collection[int]:
        return (len(self.axes),)

    def read(self, text: str) -> Any:
        """A single value as it is typed on a command line. ValueError says in a few words what it must be."""
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"must be {'an integer' if self.whole else 'a number'}") from None
        return self.taken(int(text) if self.whole and text.lstrip("-").isdecimal() else value)

    def problem(self, made: Tensor, sizes: Sizes, rows: int | None) -> str:
        """How what an action gave breaks the promise of its result's port, in a few words; empty where it keeps it.

        rows: how many there must be; None where the action looks at its rows together.
        """
        if made.dim() != len(self.axes):
            return f"has shape {tuple(made.shape)}, which are not the axes {', '.join(self.axes) or 'of a single number'}"
        if made.is_floating_point() == self.whole:
            return f"holds {'fractions' if self.whole else 'integers'} ({made.dtype}) as {self.kind}"
        if rows is not None and self.rows and made.shape[self.axes.index(BATCH)] != rows:
            return f"has {counted(made.shape[self.axes.index(BATCH)], 'row')} for {rows}"
        for axis, length in zip(self.axes, made.shape, strict=True):
            fixed = axis in ("channel", "feature", "code", "class") or (axis == "single")
            if fixed and sizes.of(axis) not in (0, length):
                return f"has {length} along {axis}, where the model has {sizes.of(axis)}"
        if not made.isfinite().all():
            return "holds numbers that are not finite"
        low, high = (math.inf * sign if end is None else end + sign * _TOLERANCE for sign, end in ((-1, self.low), (1, self.high)))
        if made.numel() and not (low <= made.min() and made.max() <= high):
            return f"goes from {made.min().item():g} to {made.max().item():g}, outside of {self.kind}'s {self.low} to {self.high}"
        return ""


def number_of(value: Any, port: Port, limits: Mapping[str, int]) -> int | float:
    """One number of a port."""
    if isinstance(value, bool) or not isinstance(value, int | float) or (port.whole and value != int(value if math.isfinite(value) else 0)):
        raise ValueError(f"must be {'an integer' if port.whole else 'a number'}")
    if not math.isfinite(value):
        raise ValueError("is not finite; give a number")
    low, high = port.bounds(limits)
    if not low <= value <= high:
        said = value if abs(value) < _SAID else "beyond all numbers here"
        raise ValueError(f"is {said}; it must be at {'least' if value < low else 'most'} {low if value < low else high}")
    return int(value) if port.whole else float(value)
