"""What is a picture's file by its name, and columns that hold masks of pictures."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Any

from genlib.data.codecs.captions import is_missing

IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".mpo", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"))
MASK_COLUMNS = (
    "mask", "mask_path", "mask_file", "mask_file_name", "mask_image", "segmentation", "segmentation_mask", "segmentation_map", "annotation", "label",
)  # fmt: skip
"""Names of columns that hold masks where they hold pictures; of several the first here counts."""
AUTO, NONE = "auto", "none"


def mask_columns(asked: str, columns: Iterable[str], taken: Collection[str]) -> list[str]:
    """The columns that may hold the masks: the one that is asked for, none, or with `auto` those called so, in any case, that are not taken."""
    if asked != AUTO:
        return [] if asked in ("", NONE) else [asked]
    by_name = {column.lower(): column for column in columns if column not in taken}
    return [by_name[name] for name in MASK_COLUMNS if name in by_name]


def why_no_paths(values: Iterable[Any]) -> str:
    """What a column holds where it is not paths of pictures, told from its first value; empty where it is, or where all are missing."""
    first = next((value for value in values if not is_missing(value) and value != ""), "x.png")
    if isinstance(first, bytes | dict):
        return "images and not paths; use the verb huggingface"
    if not isinstance(first, str):
        return f"values of type {type(first).__name__} and no paths of pictures"
    if "://" in first or os.path.splitext(first)[1].lower() in IMAGES:
        return ""
    return f"{first[:40]!r}, which is no path of a picture ({', '.join(sorted(IMAGES))})"


def mask_words(column: str, asked: str) -> dict[str, str]:
    """Where masks are from, for the result of a conversion."""
    if not column:
        return {}
    return {"masks": f"column {column!r}{', by its name; --mask-column none leaves them out' if asked == AUTO else ''}"}
