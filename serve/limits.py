"""How much one request may ask for: a limit a field, and one for the work as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genlib.actions import Action
from genlib.plurals import counted
from genlib.ports import Sizes
from serve.api_error import ApiError


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Fields' limits; the cost of a request is pictures x steps x pixels of one."""

    cost: int = 1 << 30
    """Ten pictures of 1024 x 1024 pixels in 100 steps."""
    pictures: int = 64
    """That one request gives."""
    inputs: int = 256
    """Texts, or pictures, of one request to embed, classify or reconstruct."""
    labels: int = 1000
    steps: int = 1000
    side: int = 4096
    """Pixels of a side of what is made."""
    text_characters: int = 4000
    words_bytes: int = 1 << 19
    """Of all texts of a request together, files as base64 left out."""
    input_pixels: int = 1 << 24
    """Of one picture that is given, and of all of a request together once they are scaled."""
    all_input_pixels: int = 1 << 26
    """Of all pictures of a request together as they are given: 256 of 512 x 512."""
    picture_bytes: int = 128 << 20
    """Memory that one picture may take while it is decoded, one at a time, whatever the size of its file."""
    numbers: int = 1 << 22
    """In one array that is given."""
    body_bytes: int = 16 << 20
    bodies_bytes: int = 128 << 20
    """Of all requests that are being read or answered."""

    def of_ports(self) -> dict[str, int]:
        """By the names that ports have for them."""
        return {"steps": self.steps, "side": self.side, "pictures": self.pictures}

    def public(self) -> dict[str, int]:
        """What a client may want to know."""
        return {name: value for name, value in asdict(self).items() if name != "bodies_bytes"}


def check_cost(limits: Limits, *, pictures: int, steps: int, pixels: int) -> int:
    """The cost of a request. ApiError where a number or their product is too large."""
    for value, limit, name in ((pictures, limits.pictures, "pictures"), (steps, limits.steps, "steps")):
        if value > limit:
            raise ApiError(400, f"this asks for {value:,} {name}, and one request may ask for {limit:,}; ask for less", code="limit_exceeded")
    cost = pictures * max(1, steps) * max(1, pixels)
    if cost > limits.cost:
        product = f"{counted(pictures, 'picture')} x {counted(max(1, steps), 'step')} x {counted(pixels, 'pixel')}"
        raise ApiError(400, f"{product} is {cost:,}, above the limit of {limits.cost:,}; ask for less of one of them", code="limit_exceeded")
    return cost


def rows_of(action: Action, arguments: Mapping[str, Any]) -> int:
    """Rows that an action's arguments ask for: the product of the lengths of their first axes, each axis counted once.

    Seeds and prompts go together, as both have an entry for each row; the amounts to try on each row multiply.
    """
    lengths: dict[str, int] = {}
    for name, value in arguments.items():
        axes = action.inputs[name].port.axes
        if axes and axes[0] not in ("code", "feature") and len(value):  # numbers of one code, such as a direction, are no rows
            lengths[axes[0]] = max(lengths.get(axes[0], 1), len(value))
    return math.prod(lengths.values())


def check_entries(limits: Limits, arguments: Mapping[str, Any]) -> None:
    """Problem where a list or a batch has more entries than one may have."""
    for name, value in arguments.items():
        if (isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 1)) and len(value) > limits.labels:
            raise ApiError(400, f"{name} has {len(value):,} entries, and may have {limits.labels:,}; send fewer", param=name, code="limit_exceeded")


def repeats_of(action: Action, arguments: Mapping[str, Any]) -> int:
    """How often an action does its work for each row, such as steps times passes."""
    given = {name: arguments.get(name, one.default) for name, one in action.inputs.items() if one.port.repeats}
    return math.prod(value for value in given.values() if value)


def check_action(limits: Limits, action: Action, arguments: Mapping[str, Any], sizes: Sizes) -> int:
    """The cost of an action, whatever its family, as its ports say. ApiError where it is too much."""
    check_entries(limits, arguments)
    sides = [arguments.get(action.named(kind) or "") or sizes.side for kind in ("width", "height")]
    given = [math.prod(value.shape[2:]) for value in arguments.values() if isinstance(value, np.ndarray) and value.ndim == 4]
    rows, repeats = rows_of(action, arguments), repeats_of(action, arguments)
    if action.named("seeds") or repeats > 1:
        pixels = max([math.prod(sides), *given])
        return check_cost(limits, pictures=rows, steps=min(repeats, limits.steps), pixels=pixels * max(1, repeats // limits.steps))
    if rows > (most := limits.inputs * limits.labels):
        raise ApiError(400, f"this asks for {rows:,} rows, and one request may ask for {most:,}; ask for less", code="limit_exceeded")
    return rows
