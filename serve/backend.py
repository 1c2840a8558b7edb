"""What the HTTP front asks of the models behind it: plain values in, PNG bytes or numbers out, wherever the models run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from genlib.actions import Action
from genlib.config import Color
from genlib.ports import Sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What a model's run left beside its checkpoint, for people; all may be missing."""

    data: str = ""
    """Name of the data that it was trained on."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Of these very weights."""
    picture: Path | None = None
    """A PNG file that shows what it can do."""
    held_out: Path | None = None
    """The folder with its held-out samples, see `genlib.sharing.held_out`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What a served model is and can do, in plain values."""

    name: str
    recipe: str
    step: int
    sha256: str
    """Of its weights, as its checkpoint's manifest says."""
    actions: dict[str, Action]
    """By name, with the ports of what goes in and comes out."""
    sizes: Sizes
    """What these ports measure."""
    max_batch: int
    """Rows that it computes at once."""
    created: int
    """Unix seconds at which its checkpoint was written."""
    background: Color = (255, 255, 255)
    """What it was trained to see behind what is transparent, see `DataConfig.background`."""
    run: RunFacts = field(default_factory=RunFacts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What an action gave: pictures or numbers."""

    images: list[bytes] = field(default_factory=list)
    """PNG files in row order; a result (B, K, C, H, W) is B * K of them, row by row."""
    numbers: np.ndarray | None = None
    """What is no picture, rows first."""
    per_row: int = 1
    """Pictures a row, K."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went: queue, batch, model, encode."""
    batch_size: int = 0
    """Rows of the largest call that it was part of."""
    tokens: int = 0
    """As which its texts were read, see `Task.count_tokens`; of numbers alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """News of an action that runs. The last one is its result."""

    kind: Literal["progress", "partial", "result"]
    step: int
    """Steps done, from 1."""
    steps: int
    """Of the whole run; 0 where the action has none."""
    images: list[bytes] = field(default_factory=list)
    """PNG files of a partial: what the pictures will look like."""
    result: Result | None = None


class Backend(Protocol):
    """Models that run actions.

    Arguments are plain values, and numpy arrays where an action takes tensors: images float32 (B, C, H, W) in [0, 1]
    or uint8 of 255 levels, vectors float32, codes integers of any size.
    `parameters` are text chunks of every PNG, to which the seed of its row is added; None writes none.
    Errors: ValueError, the request's fault in one sentence, also for a model or action that there is not; Overloaded; Unavailable.
    """

    def models(self) -> list[ModelCard]:
        """All that are served."""
        ...

    async def run(self, model: str, action: str, arguments: dict[str, Any], *, parameters: dict[str, str] | None = None) -> Result:
        """Runs an action to its end. Cancelling the await stops the work within one step."""
        ...

    def stream(
        self, model: str, action: str, arguments: dict[str, Any], *, partial_images: int = 0, parameters: dict[str, str] | None = None
    ) -> AsyncIterator[Event]:
        """The same with news on the way, `partial_images` of them with pictures. Closing the iterator stops the work within one step."""
        ...


class Overloaded(Exception):
    """More is waiting than will be done in time: try again after `retry_after_seconds`."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"too many requests are waiting; try again in {retry_after_seconds:g} seconds")
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.retry_after_seconds,)


class Unavailable(Exception):
    """The model cannot answer now, as when it is being loaded: try again after `retry_after_seconds`."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"the model is not available; try again in {retry_after_seconds:g} seconds")
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.retry_after_seconds,)
