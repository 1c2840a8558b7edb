"""Which columns of a table hold images, captions and labels, where the user does not say: by usual names, else by what the first rows hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from genlib.data.codecs.captions import has_caption, is_missing
from genlib.data.importers.image_files import AUTO, IMAGES, NONE

IMAGE_COLUMNS = ("path", "image_path", "file_name", "filename", "filepath", "file_path", "file", "image", "image_file", "img", "img_path")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "description", "title", "alt_text", "alt")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
"""Usual names, in any case; of several the first here counts."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Names of a table's columns; empty where there is none."""

    image: str
    caption: str = ""
    label: str = ""
    mask: str = ""

    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in (self.image, self.caption, self.label, self.mask) if name]


def found_columns(path: Path, asked: TableColumns, columns: Sequence[str], rows: Rows) -> TableColumns:
    """The columns that are asked for, and instead of `auto` those that are usual; "" or `none` is no column. `rows` are the table's first ones.

    ValueError where no column holds paths of images, or it holds addresses.
    """
    image = asked.image if asked.image != AUTO else _image_column(path, columns, rows)
    if addresses := _address_column(image, columns, rows):
        caption = _named(CAPTION_COLUMNS, columns) if asked.caption == AUTO else asked.caption
        raise ValueError(of_addresses(path, addresses, caption))
    if not image:
        raise ValueError(f"{path}: which column holds the paths of the images? Give --image-column, one of {', '.join(columns)}")
    others = [column for column in columns if column != image]
    taken = [name for name in (asked.caption, asked.label) if name not in (AUTO, NONE)]
    unnamed = all(column.isdecimal() for column in columns)  # a table without header
    label = _chosen(asked.label, LABEL_COLUMNS, [one for one in others if one not in taken], lambda column: _is_label(column, rows, unnamed), unnamed)
    captions = [one for one in others if one not in (*taken, label)]
    caption = _chosen(asked.caption, CAPTION_COLUMNS, captions, lambda column: any(has_caption(row.get(column)) for row in rows), unnamed)
    return TableColumns(image, caption, label, asked.mask)


def of_addresses(path: Path, column: str, caption: str) -> str:
    """What to do with a table of addresses; of several ways the one whose shards are read as they are."""
    form = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".tsv": "tsv", ".csv": "csv"}.get(path.suffix.lower(), "parquet")
    words = f"--url_list {quote(str(path))} --input_format {form} --url_col {quote(column)}{f' --caption_col {quote(caption)}' if caption else ''}"
    return (
        f"{path}: the column {column!r} holds addresses and no files; fetch them with `img2dataset {words} --output_format webdataset "
        "--output_folder SHARDS`, and train with --data.train SHARDS"
    )


def is_header(row: Iterable[str]) -> bool:
    """Whether the first row of a table names its columns: none of its cells is the path of an image or an address."""
    return not any("://" in cell or _ends_as_image(cell) for cell in row)


def _image_column(path: Path, columns: Sequence[str], rows: Rows) -> str:
    return _named(IMAGE_COLUMNS, columns) or next((column for column in columns if _all(column, rows, _ends_as_image)), "")


def _address_column(image: str, columns: Sequence[str], rows: Rows) -> str:
    """The column with addresses, where that of the images or, if there is none, another holds nothing else."""
    return next(
        (column for column in ([image] if image else columns) if _all(column, rows, lambda cell: cell.startswith(("http://", "https://")))), ""
    )


def _all(column: str, rows: Rows, true: Callable[[str], bool]) -> bool:
    """Whether it holds for all cells that are there, and one is."""
    cells = [cell for row in rows if not is_missing(cell := row.get(column)) and cell != ""]
    return bool(cells) and all(isinstance(cell, str) and true(cell) for cell in cells)


def _ends_as_image(cell: str) -> bool:
    return os.path.splitext(cell.strip())[1].lower() in IMAGES


def _chosen(asked: str, usual: Sequence[str], columns: Sequence[str], fits: Callable[[str], bool], unnamed: bool) -> str:
    """The column that is asked for; with `auto` the one of a usual name, or of a table without names the first, that fits."""
    if asked != AUTO:
        return "" if asked == NONE else asked
    if unnamed:
        return next((column for column in columns if fits(column)), "")
    name = _named(usual, columns)
    return name if name and fits(name) else ""


def _named(usual: Sequence[str], columns: Sequence[str]) -> str:
    by_name = {column.strip().lower().replace(" ", "_"): column for column in reversed(columns)}
    return next((by_name[name] for name in usual if name in by_name), "")


def _is_label(column: str, rows: Rows, unnamed: bool) -> bool:
    """Whether cells name classes: no pictures, as masks are; without a name to go by, single words that come more than once."""
    if _all(column, rows, _ends_as_image):
        return False
    cells = [str(cell).strip() for row in rows if not is_missing(cell := row.get(column))]
    return not unnamed or (2 * len(set(cells)) <= len(cells) and not any(" " in cell for cell in cells))
