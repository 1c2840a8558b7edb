"""Ports: what the values are that go into a task's actions and come out of them.

An action is annotated with ports, so that whatever offers it (the server, its page, `jobs/generate.py`, the contract tests) reads from them
alone how a value is written in JSON, what limits it, what it costs, and how to make an example:

    @action
    def generate(self, *, prompt: Texts, seed: Seeds, steps: Steps = 25) -> Image: ...

To a type checker `Image` is a Tensor and `Seeds` a list of int; the port stands beside the type (`typing.Annotated`). An axis called "batch"
has an entry for each row of a call: row i of what comes out is a function of row i of what goes in. What has no such axis belongs to the
call as a whole. A family whose values are of another kind adds a port of its own by `register`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

BATCH = "batch"
"""The axis of rows."""
MAX_SEED = 2**63 - 1
_TOLERANCE = 1e-4
"""By which rounding may carry a number beyond its range."""
_LARGEST = 10**6
"""Largest plain number without a range of its own: what lies beyond is no setting of any model, and overflows in some."""
_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


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
            return _number(value, self, limits or {})
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
            return f"has {made.shape[self.axes.index(BATCH)]} rows for {rows}"
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
        return _entries(value, self, lambda one: _number(one, self, {}), "integers" if self.whole else "numbers")

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


def _number(value: Any, port: Port, limits: Mapping[str, int]) -> int | float:
    """One number of a port."""
    if isinstance(value, bool) or not isinstance(value, int | float) or (port.whole and value != int(value if math.isfinite(value) else 0)):
        raise ValueError(f"must be {'an integer' if port.whole else 'a number'}")
    if not math.isfinite(value):
        raise ValueError("is not finite; give a number")
    low, high = port.bounds(limits)
    if not low <= value <= high:
        raise ValueError(f"must be at {'least' if value < low else 'most'} {low if value < low else high}")
    return int(value) if port.whole else float(value)


def _word(value: Any, port: Port) -> str:
    """One text of a port."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
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


_PIXELS = ("channel", "height", "width")
Image = Annotated[Tensor, register(Port(kind="image", axes=(BATCH, *_PIXELS), low=0, high=1, picture=True))]
"""Images (B, C, H, W) in [0, 1]."""
Frames = Annotated[Tensor, register(Port(kind="frames", axes=(BATCH, "frame", *_PIXELS), low=0, high=1, picture=True))]
"""Several images of each row, (B, K, C, H, W) in [0, 1]."""
Strip = Annotated[Tensor, register(Port(kind="strip", axes=("frame", *_PIXELS), low=0, high=1, picture=True))]
"""Images (K, C, H, W) in [0, 1] that belong to the call as a whole."""
Gallery = Annotated[Tensor, register(Port(kind="gallery", axes=("item", *_PIXELS), low=0, high=1))]
"""Images (M, C, H, W) in [0, 1] that all rows are compared with."""
Mask = Annotated[Tensor, register(MaskPort(kind="mask", axes=(BATCH, "single", "height", "width"), low=0, high=1, picture=True))]
"""Masks (B, 1, H, W): 1 where an image is to change."""
MaskLogits = Annotated[Tensor, register(Port(kind="mask_logits", axes=(BATCH, "mask", "height", "width")))]
"""Log-odds (B, K, H, W) that a pixel belongs to each of K masks."""
Latent = Annotated[Tensor, register(Port(kind="latent", axes=(BATCH, "latent", "row", "column")))]
"""Latents (B, c, h, w) of an autoencoder."""
Codes = Annotated[Tensor, register(Port(kind="codes", axes=(BATCH, "row", "column"), low=0, whole=True))]
"""Entries (B, h, w) int64 of a codebook."""
Code = Annotated[Tensor, register(Port(kind="code", axes=(BATCH, "code")))]
"""Codes (B, D) that the task decodes."""
Place = Annotated[Tensor, register(Port(kind="place", axes=(BATCH, "coordinate")))]
"""Places (B, 2) on a map, x and y."""
Direction = Annotated[Tensor, register(Port(kind="direction", axes=("code",)))]
"""A change (D,) of codes."""
Vector = Annotated[Tensor, register(Port(kind="vector", axes=(BATCH, "feature")))]
"""Vectors (B, D), where samples are vectors."""
Features = Annotated[Tensor, register(Port(kind="features", axes=(BATCH, "embedding")))]
"""Embeddings (B, D), to be compared with each other."""
Sample = Annotated[Tensor, register(SamplePort(kind="sample", axes=(BATCH,)))]
"""Images (B, C, H, W) in [0, 1] or vectors (B, D), whichever the task was trained on."""
SampleFrames = Annotated[Tensor, register(SamplePort(kind="sample_frames", axes=(BATCH, "frame")))]
"""Several samples of each row, (B, K, C, H, W) or (B, K, D)."""
SampleStrip = Annotated[Tensor, register(SamplePort(kind="sample_strip", axes=("frame",)))]
"""Samples (K, C, H, W) or (K, D) that belong to the call as a whole."""
SampleGallery = Annotated[Tensor, register(SamplePort(kind="sample_gallery", axes=("item",)))]
"""Samples (M, C, H, W) or (M, D) that all rows are compared with."""
VectorFrames = Annotated[Tensor, register(Port(kind="vector_frames", axes=(BATCH, "frame", "feature")))]
VectorStrip = Annotated[Tensor, register(Port(kind="vector_strip", axes=("frame", "feature")))]
VectorGallery = Annotated[Tensor, register(Port(kind="vector_gallery", axes=("item", "feature")))]
Probabilities = Annotated[Tensor, register(Port(kind="probabilities", axes=(BATCH, "option"), low=0, high=1))]
"""Probabilities (B, K) of K labels."""
Scores = Annotated[Tensor, register(Port(kind="scores", axes=(BATCH,)))]
"""A number (B,) for each row."""
Numbers = Annotated[Tensor, register(Port(kind="numbers", axes=(BATCH,), low=0, whole=True))]
"""The number (B,) int64 of what each row belongs to, from 0."""
Ranking = Annotated[Tensor, register(Port(kind="ranking", axes=(BATCH, "rank"), low=0, whole=True))]
"""Numbers (B, K) int64 of items of a gallery, the best first."""

Text = Annotated[str, register(WordsPort(kind="text"))]
Texts = Annotated[list[str], register(WordsPort(kind="texts", axes=(BATCH,)))]
"""A text a row."""
NegativeText = Annotated[str, register(WordsPort(kind="negative_text"))]
"""What guidance pushes away from."""
SourceTexts = Annotated[list[str], register(WordsPort(kind="source_texts", axes=(BATCH,)))]
"""What is true of each given image."""
Names = Annotated[list[str], register(WordsPort(kind="names", axes=("option",)))]
"""Labels in words, for all rows."""
Templates = Annotated[Sequence[str], register(WordsPort(kind="templates", axes=("template",)))]
"""Sentences with {} for a label."""
Labels = Annotated[list[int], register(NumbersPort(kind="label", axes=(BATCH,), low=0, whole=True))]
"""A class a row, by its number."""
Seeds = Annotated[list[int], register(NumbersPort(kind="seeds", axes=(BATCH,), low=0, high=MAX_SEED, whole=True, limit="pictures"))]
"""A seed a row."""
Seed = Annotated[int, register(Port(kind="seed", low=0, high=MAX_SEED, whole=True))]
Amounts = Annotated[list[float], register(NumbersPort(kind="amounts", axes=("amount",)))]
"""Numbers for all rows, each of which is tried on every row."""
Values = Annotated[list[float], register(NumbersPort(kind="values", axes=(BATCH,)))]
"""A number a row."""
Steps = Annotated[int, register(Port(kind="steps", low=1, whole=True, limit="steps", repeats=True, few=2))]
"""Steps of a sampler or a chain."""
Passes = Annotated[int, register(Port(kind="passes", low=1, whole=True, limit="steps", repeats=True, few=2))]
"""How often each stretch of the way is walked."""
Jump = Annotated[int, register(Port(kind="jump", low=1, whole=True, limit="steps", few=1))]
"""Steps of such a stretch."""
FrameCount = Annotated[int, register(Port(kind="frame_count", low=1, whole=True, limit="steps", repeats=True, few=2))]
"""Images of a series."""
Count = Annotated[int, register(Port(kind="count", low=1, whole=True, limit="steps", few=1))]
"""How many are told."""
Guidance = Annotated[float, register(Port(kind="guidance"))]
"""Scale of classifier-free guidance; 1 is none."""
GuidanceRescale = Annotated[float, register(Port(kind="guidance_rescale", low=0, high=1))]
"""Share of the guided estimate whose spread is put back."""
Strength = Annotated[float, register(Port(kind="strength", low=0, high=1))]
"""How far from a given image: 0 keeps it, 1 forgets it."""
NoiseLevel = Annotated[float, register(Port(kind="noise_level", low=0))]
Depth = Annotated[float, register(Port(kind="depth", low=0))]
"""From where on valleys of a map are apart."""
Left = Annotated[float, register(Port(kind="left", low=0, high=1))]
"""Share of the new room to the left."""
Top = Annotated[float, register(Port(kind="top", low=0, high=1))]
"""Share of the new room above."""
Width = Annotated[int, register(Port(kind="width", low=0, whole=True, limit="side", few=0))]
"""Pixels; 0 is the size of training."""
Height = Annotated[int, register(Port(kind="height", low=0, whole=True, limit="side", few=0))]
"""Pixels; 0 is the size of training."""


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
