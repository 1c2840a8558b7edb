"""One rule for classes of folders, tables and data sets: names that are all whole numbers are labels as they are, others are numbered in order."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from genlib.data.codecs.captions import is_missing
from genlib.data.codecs.decode import LIMIT_LABELS, BadSample
from genlib.plurals import counted

_MISSING = ("", "-1", "nan", "none", "null", "<na>")
_NUMBER = re.compile(r"(-?\d{1,9})(?:\.0*)?")


def label_text(value: Any) -> str:
    """A label as text, a whole number in its shortest form; empty where it is missing, as None, NaN and -1 are. BadSample for other types."""
    if is_missing(value):
        return ""
    if not isinstance(value, str | int | float):
        raise BadSample(f"label of type {type(value).__name__}")
    text = str(value).removeprefix("\ufeff").strip()
    if text.lower() in _MISSING or (text.startswith("-") and _NUMBER.fullmatch(text) and float(text) == -1):
        return ""
    return text


def as_number(text: str) -> int | None:
    """The whole number that a text is, `10` or pandas' `10.0`."""
    found = _NUMBER.fullmatch(text)
    return int(found[1]) if found else None


def numbered(texts: Collection[str]) -> tuple[Mapping[str, int], list[str]]:
    """The label of each text, and names of classes: none where all texts are numbers, which stay what they are. ValueError where two are one."""
    numbers = {text: as_number(text) for text in texts}
    if any(number is None for number in numbers.values()):
        names = sorted(texts)
        return {name: at for at, name in enumerate(names)}, names
    known: dict[int, str] = {}
    for text, number in sorted(numbers.items()):
        assert number is not None
        other = known.setdefault(number, text)
        if other != text and "." not in f"{other}{text}":
            raise ValueError(f"the classes {other!r} and {text!r} are the same number; rename one of them")
    return {text: number for text, number in numbers.items() if number is not None}, []


def in_words(labels: Mapping[str, int], names: Collection[str], what: str) -> str:
    """How labels were made of `what`, for the result of a conversion."""
    if names:
        first = ", ".join(f"{name} is {labels[name]}" for name in list(names)[:2])
        return f"{counted(len(names), 'class', 'classes')} by name from {what}: {first}{', ...' if len(names) > 2 else ''}"
    good = [number for number in labels.values() if 0 <= number < LIMIT_LABELS]
    return (
        f"{counted(len(set(good)), 'class', 'classes')} from {what}, numbers as they are: {min(good)} to {max(good)}"
        if good
        else f"no class in {what}"
    )
