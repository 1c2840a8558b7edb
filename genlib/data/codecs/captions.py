"""The captions that a value holds: a text, a list of texts, or nothing, as JSON members, tables and files beside pictures have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from genlib.data.codecs.decode import BadSample, plain_text

MISSING = "missing caption"
CAPTIONS = "captions"
"""Field of text members, `key.captions.txt`, with a caption a line."""
_MOST = 1000  # captions of a picture


def is_missing(value: Any) -> bool:
    """Whether it is what tables write for nothing: None, NaN or pandas' NA."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def captions_of(value: Any) -> list[str]:
    """Texts of a value without blank ones: of a text itself, of a list each. BadSample where there is another type in it."""
    if is_missing(value):
        return []
    if isinstance(value, str):
        text = plain_text(value)
        return [text] if text else []
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | Mapping):
        return [text for item in value[:_MOST] for text in ([] if is_missing(item) else _texts(item))]
    raise BadSample(f"caption of type {type(value).__name__}")


def _texts(item: Any) -> list[str]:
    if not isinstance(item, str):
        raise BadSample(f"caption of type {type(item).__name__} in a list")
    text = plain_text(item)
    return [text] if text else []


def has_caption(value: Any) -> bool:
    """Whether there is a text in a value that `captions_of` takes."""
    try:
        return bool(captions_of(value))
    except BadSample:
        return False


def lines_of(text: str) -> list[str]:
    """The lines of a text without blank ones, each a caption."""
    return [line for part in text.replace("\r", "\n").split("\n") if (line := part.strip())][:_MOST]


def as_lines(captions: Sequence[str]) -> str:
    """Several captions as one text, a line each: the inverse of `lines_of`, but for line breaks inside a caption, which become spaces."""
    return "\n".join(" ".join(caption.split()) for caption in captions)
