"""How much one request may ask for: a limit a field, and one for the work as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serve.problem import Problem


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

    def public(self) -> dict[str, int]:
        """What a client may want to know."""
        return {name: value for name, value in asdict(self).items() if name != "bodies_bytes"}


def check_cost(limits: Limits, *, pictures: int, steps: int, pixels: int) -> int:
    """The cost of a request. Problem where a number or their product is too large."""
    for value, limit, name in ((pictures, limits.pictures, "pictures"), (steps, limits.steps, "steps")):
        if value > limit:
            raise Problem(400, f"this asks for {value} {name}, and one request may ask for {limit}; ask for less", code="limit_exceeded")
    cost = pictures * max(1, steps) * max(1, pixels)
    if cost > limits.cost:
        raise Problem(
            400,
            f"{pictures} x {max(1, steps)} steps x {pixels} pixels is {cost:,}, above the limit of {limits.cost:,}; ask for less of one of them",
            code="limit_exceeded",
        )
    return cost


def rows_of(arguments: Mapping[str, Any]) -> int:
    """Rows that an action's arguments ask for: the product of the different lengths of its lists and batches.

    Lists of one length go together, as seeds and prompts do; those of another multiply, as a list of amounts for each picture does.
    """
    lengths = {len(value) for value in arguments.values() if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 1)}
    return math.prod(lengths - {0, 1})


def check_entries(limits: Limits, arguments: Mapping[str, Any]) -> None:
    """Problem where a list or a batch has more entries than one may have."""
    for name, value in arguments.items():
        if (isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 1)) and len(value) > limits.labels:
            raise Problem(400, f"{name} has {len(value)} entries, and {limits.labels} are the limit; send fewer", param=name, code="limit_exceeded")


def check_action(limits: Limits, arguments: Mapping[str, Any], image_size: int) -> int:
    """The cost of an action of whatever family, by what its arguments are called by custom."""
    check_entries(limits, arguments)
    for name, value in arguments.items():
        if name in ("steps", "passes", "jump", "count") and isinstance(value, int) and value > limits.steps:
            raise Problem(400, f"{name} is above the limit of {limits.steps}; take less", param=name, code="limit_exceeded")
        if name in ("width", "height") and isinstance(value, int) and value > limits.side:
            raise Problem(400, f"{name} is above the limit of {limits.side} pixels; take less", param=name, code="limit_exceeded")
    sides = [arguments.get(name) or image_size for name in ("width", "height")]
    given = [math.prod(value.shape[2:]) for value in arguments.values() if isinstance(value, np.ndarray) and value.ndim == 4]
    steps = arguments.get("steps", 1) * arguments.get("passes", 1)
    rows = rows_of(arguments)
    if "seed" in arguments or steps > 1:
        return check_cost(
            limits, pictures=rows, steps=min(steps, limits.steps), pixels=max([math.prod(sides), *given]) * max(1, steps // limits.steps)
        )
    if rows > limits.inputs * limits.labels:
        raise Problem(400, f"this asks for {rows} rows, above the limit of {limits.inputs * limits.labels}; ask for less", code="limit_exceeded")
    return rows
