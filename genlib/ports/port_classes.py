"""Ports of other kinds than arrays of numbers, and all ports by kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from genlib.ports.port import Port, Sizes, number_of

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True, kw_only=True, slots=True)
class WordsPort(Port):
    """Text, or a list of texts."""

    @property
    def array(self) -> bool:
        return False

    def read(self, text: str) -> Any:
        return self.taken(text)

    def plain(self, limits: Mapping[str, int]) -> dict[str, Any]:
        return {"type": "string", **({"enum": list(self.choices)} if self.choices else {})}

    def taken(self, value: Any, limits: Mapping[str, int] | None = None) -> Any:
        if self.axes:
            return _entries(value, self, lambda one: _word(one, self), "strings")
        return _word(value, self)

    def example(self, sizes: Sizes, rows: int, seed: int = 0) -> Any:
        if self.choices:
            return self.choices[0]
        words = [_WORDS[(seed + row) % len(_WORDS)] for row in range(rows if self.rows else 2)]
        return words if self.axes else words[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class NumbersPort(Port):
    """A plain list of numbers, such as seeds."""

    @property
    def array(self) -> bool:
        return False

    def taken(self, value: Any, limits: Mapping[str, int] | None = None) -> Any:
        return _entries(value, self, lambda one: number_of(one, self, {}), "integers" if self.whole else "numbers")

    def example(self, sizes: Sizes, rows: int, seed: int = 0) -> Any:
        entries = range(seed, seed + (rows if self.rows else 2))
        if self.kind == "label":
            return [entry % max(1, len(sizes.classes) or 2) for entry in entries]
        return [entry if self.whole else float(entry) for entry in entries]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskPort(Port):
    """1 where an image is to change."""

    def example(self, sizes: Sizes, rows: int, seed: int = 0) -> Any:
        side = sizes.side or 2
        upper = np.repeat((np.arange(side) < side / 2).astype(np.float32)[:, None], side, axis=1)
        return np.stack([upper[None]] * rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplePort(Port):
    """An image or a vector, whichever the task was trained on; see `resolved`."""

    @property
    def visible(self) -> bool:
        return True

    def example(self, sizes: Sizes, rows: int, seed: int = 0) -> Any:
        return resolved(self, sizes).example(sizes, rows, seed)

    def _dims(self) -> Collection[int]:
        return (len(self.axes) + 1, len(self.axes) + 3)  # of numbers, or of channel, height and width


def _word(value: Any, port: Port) -> str:
    """One text of a port, without a byte order mark at its start, as training's captions are."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    value = value.removeprefix("\ufeff")
    if port.choices and value not in port.choices:
        raise ValueError(f"must be one of {', '.join(port.choices)}")
    return value


def _entries(value: Any, port: Port, entry: Callable[[Any], Any], what: str) -> list[Any]:
    """A list of a port."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of {what}")
    if port.rows and not value:
        raise ValueError("is empty; give at least one entry")
    return [entry(one) for one in value]


PORTS: dict[str, Port] = {}
"""All ports by kind."""


def register(port: Port) -> Port:
    """Adds a port. ValueError where another one has its kind."""
    if PORTS.setdefault(port.kind, port) != port:
        raise ValueError(f"there is another port of the kind {port.kind!r}; give this one another name")
    return port


def choice(kind: str, names: Collection[str]) -> Port:
    """A port of one of these names."""
    return WordsPort(kind=kind, choices=tuple(names))


_RESOLVED = {
    "sample": ("image", "vector"), "sample_frames": ("frames", "vector_frames"), "sample_strip": ("strip", "vector_strip"),
    "sample_gallery": ("gallery", "vector_gallery"),
}  # fmt: skip
"""Kinds of samples, as images and as vectors."""


def resolved(port: Port, sizes: Sizes) -> Port:
    """The port itself; of samples that of images or vectors, whichever the task was trained on."""
    if port.kind not in _RESOLVED:
        return port
    image, vector = _RESOLVED[port.kind]
    return PORTS[image if sizes.side else vector]
