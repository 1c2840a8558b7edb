"""Lists of numbers in JSON, straight into an array: no object is made for a number, but for some thousands at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pydantic_core

MOST_SIDES = 6
_SPACES = b" \t\r\n"
_MARKS = bytes(sign if sign in b"[]," else ord("0") for sign in range(256))
"""What numbers are written with becomes a 0."""
_FLAT = bytes(ord(" ") if sign in b"[]" else sign for sign in range(256))
_CHUNK_BYTES = 1 << 16


class NotRectangular(ValueError):
    """These are no numbers in lists of one length at each depth."""


def count_at_most(text: bytes) -> int:
    """How many numbers there can be in it."""
    return text.count(b",") + 1


def read(text: bytes, *, whole: bool = False) -> np.ndarray:
    """A JSON list of numbers, or of such lists: float32; with `whole`, integers of the fewest bytes that hold them. NotRectangular for any other."""
    shape = shape_of(text)
    flat = text.translate(_FLAT)
    numbers = _whole(flat) if whole else _floats(flat, count_at_most(text))
    if numbers.size != count_at_most(text):
        raise NotRectangular
    return numbers.reshape(shape)


def shape_of(text: bytes) -> tuple[int, ...]:
    """The lengths at each depth, told by brackets and commas alone. NotRectangular where they differ, or a number is in a wrong place."""
    if text.translate(None, b"0123456789+-.eE[]," + _SPACES):
        raise NotRectangular
    marks = text.translate(_MARKS, _SPACES)
    if b"0[" in marks or b"]0" in marks or b"[]" in marks:
        raise NotRectangular
    marks = marks.translate(None, b"0")
    depth = len(marks) - len(marks.lstrip(b"["))
    if not 1 <= depth <= MOST_SIDES:
        raise NotRectangular
    sides, sizes = [], [0]  # of the innermost list first, and how many signs each takes
    for level in range(1, depth + 1):
        size = marks.find(b"]" * level) + 2 * level - depth
        side, rest = divmod(size - 1, sizes[-1] + 1)
        if rest or side < 1:
            raise NotRectangular
        sides.append(side)
        sizes.append(size)
    if sizes[-1] != len(marks) or marks != _written(sides):
        raise NotRectangular
    return tuple(reversed(sides))


def _written(sides: list[int]) -> bytes:
    """The brackets and commas of an array, of which these are the sides, the last first."""
    block = b""
    for side in sides:
        block = b"".join((b"[", (block + b",") * (side - 1), block, b"]"))
    return block


def _parts(flat: bytes) -> Iterator[list[int | float]]:
    """The numbers between commas, some thousands at a time."""
    start = 0
    while start <= len(flat):
        end = flat.find(b",", start + _CHUNK_BYTES)
        end = len(flat) if end < 0 else end
        try:
            yield pydantic_core.from_json(b"[" + flat[start:end] + b"]", allow_inf_nan=False, cache_strings="none")
        except ValueError:
            raise NotRectangular from None
        start = end + 1


def _floats(flat: bytes, count: int) -> np.ndarray:
    """float32; infinite where a number is too large for that."""
    numbers, filled = np.empty(count, np.float32), 0
    with np.errstate(over="ignore"):
        for part in _parts(flat):
            if filled + len(part) > count:
                raise NotRectangular
            try:
                numbers[filled : filled + len(part)] = part
            except OverflowError:
                numbers[filled : filled + len(part)] = np.inf
            filled += len(part)
    return numbers[:filled]


def _whole(flat: bytes) -> np.ndarray:
    """Integers; JSON has one kind of number, so that 2.0 is one."""
    return np.concatenate([_narrow(_integers(part)) for part in _parts(flat)])


def _integers(part: list[int | float]) -> np.ndarray:
    try:
        numbers = np.asarray(part)
        with np.errstate(invalid="ignore"):
            whole = numbers.astype(np.int64)
    except (OverflowError, ValueError):
        raise NotRectangular from None
    if numbers.dtype.kind not in "if" or (whole != numbers).any():
        raise NotRectangular
    return whole


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """The same of the smallest kind that holds them."""
    low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)
    kinds = (np.int8, np.int16, np.int32)
    kind = next((one for one in kinds if np.iinfo(one).min <= low and high <= np.iinfo(one).max), np.int64)
    return numbers.astype(kind, copy=False)
