"""A table of image paths, captions and labels: CSV, TSV, JSON lines, a JSON list of objects, or Parquet. Paths are relative to the table."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from genlib.data.codecs.captions import captions_of, is_missing
from genlib.data.codecs.decode import BadSample
from genlib.data.importers.columns import TableColumns, found_columns
from genlib.data.importers.convert import ConversionInput, RawSample
from genlib.data.importers.image_files import AUTO, NONE, mask_columns, mask_words, why_no_paths
from genlib.data.importers.labels import in_words, label_text, numbered
from genlib.data.importers.table_files import LOOKED_AT, check_columns, columns_of, first_rows, state_of, table_reader
from genlib.files import open_regular

_LABELS = 100_000


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line: what its cells hold, or why it cannot be read."""

    number: int
    image: str = ""
    caption: str | list[Any] | None = None
    label: str = ""
    problem: str = ""
    mask: str = ""


def open_table(path: Path, image: str = AUTO, caption: str = AUTO, label: str = AUTO, mask: str = AUTO) -> ConversionInput:
    """The rows of a table, in order, with the names of its columns. ValueError where the table or a column is not there.

    `auto` takes the column of a usual name (`genlib.data.importers.columns`), `none` and "" no column. A caption is a text or a list of texts.
    For labels see `genlib.data.importers.labels`. Masks are paths, too; `auto` takes a column that is called like them and holds such
    (`genlib.data.importers.image_files`).
    """
    before = state_of(path)
    columns = columns_in(path, TableColumns(image, caption, label, mask))
    by_itself = {what for what, asked in (("captions", caption), ("labels", label)) if asked == AUTO}
    image, caption, label = columns.image, columns.caption, columns.label
    columns = replace(columns, mask=_mask_column(path, mask, replace(columns, mask="")))
    rows = partial(_rows, path.absolute().parent, table_reader(path, caption), columns)
    count, lists, texts = _scan(rows(), label)
    if not count:
        raise ValueError(f"{path} has no rows")
    labels, names = numbered(texts)
    read = partial(read_rows, path.absolute().parent, columns, labels, lists)

    def cut(size: int) -> Iterator[list[TableRow]]:
        source = rows()
        while part := list(islice(source, size)):
            if state_of(path) != before:
                raise ValueError(f"the table {path} changed while it was read; start again when nothing writes it any more")
            yield part

    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ConversionInput(
        read=read,
        cut=cut,
        few=lambda number: read(list(islice(rows(), number))),
        identity={
            "rows": count,
            "digest": digest,
            "image_column": image,
            "caption_column": caption,
            "label_column": label,
            **({"mask_column": columns.mask} if columns.mask else {}),
        },
        total=count,
        facts={"name": path.stem, **({"class_names": names} if names else {})},
        said={
            "images": f"column {image!r}",
            "captions": f"column {caption!r}{', lists' if lists else ''}" if caption else _none("caption", by_itself, path),
            "labels": in_words(labels, names, f"column {label!r}") if label else _none("label", by_itself, path),
            **mask_words(columns.mask, mask),
        },
    )


def columns_in(path: Path, asked: TableColumns) -> TableColumns:
    """What a table's columns are, see `found_columns`. ValueError where one that is asked for is not there."""
    there = columns_of(path)
    if not there:
        raise ValueError(f"{path} has no rows")
    check_columns(path, [name for name in asked.names() if name not in (AUTO, NONE)], there)
    return found_columns(path, asked, there, first_rows(path))


def _none(what: str, by_itself: Collection[str], path: Path) -> str:
    """That there is no such column, and where it was looked for the way to name one."""
    if f"{what}s" not in by_itself:
        return "none"
    return f"none (no column has a usual name; --{what}-column names one of {', '.join(columns_of(path))})"


def _mask_column(path: Path, asked: str, others: TableColumns) -> str:
    """The column with the masks, empty where there is none. ValueError where one that is asked for holds something else than paths."""
    for column in mask_columns(asked, columns_of(path), others.names()):
        rows = islice(table_reader(path, others.caption)([others.image, column]), LOOKED_AT)
        values = [cells.get(column) for cells in rows if not isinstance(cells, str)]
        why_not = why_no_paths(values)
        if why_not and asked != AUTO:
            raise ValueError(f"{path}: the column {column!r} holds {why_not}; a mask is a file that its row names")
        if not why_not and not all(is_missing(value) or value == "" for value in values):
            return column
    return "" if asked in (AUTO, NONE) else asked


def read_rows(folder: Path, columns: TableColumns, labels: Mapping[str, int], lists: bool, rows: Sequence[TableRow]) -> Iterator[RawSample]:
    """The samples of some rows. Where any row has a list of captions, `lists`, all do."""
    for row in rows:
        label = labels.get(row.label) if columns.label else None
        caption = [row.caption] if lists and isinstance(row.caption, str) else row.caption
        mask = folder / row.mask if row.mask else None
        yield RawSample(
            row.image or f"row {row.number}", folder / row.image, caption, label, problem=row.problem or _problem(row, columns), mask=mask
        )


def _problem(row: TableRow, columns: TableColumns) -> str:
    if not row.image:
        return "no image path"
    if "://" in row.image or "://" in row.mask:
        return "a URL and no file"
    if columns.caption and row.caption is None:
        return "missing caption"
    if columns.mask and not row.mask:
        return "missing mask"
    return "missing label" if columns.label and not row.label else ""


def _rows(folder: Path, reader: Callable[[Sequence[str]], Iterator[Mapping[str, Any] | str]], columns: TableColumns) -> Iterator[TableRow]:
    for number, cells in enumerate(reader(columns.names()), 1):
        if isinstance(cells, str):
            yield TableRow(number, problem=cells)
        else:
            yield _row(folder, number, cells, columns)


def below(folder: Path, name: str) -> str:
    """A path as a table has it, as it is below the table's folder. Where there is no such file, backslashes are what Windows has between folders,
    and letters with accents may be composed otherwise."""
    if os.path.lexists(folder / name) if "\\" in name or not name.isascii() else True:
        return name
    name = name.replace("\\", "/")
    forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))  # macOS writes é as e and an accent
    return name if name.isascii() else next((form for form in forms if os.path.lexists(folder / form)), name)


def _row(folder: Path, number: int, cells: Mapping[str, Any], columns: TableColumns) -> TableRow:
    where, mask = _path(folder, cells.get(columns.image)), _path(folder, cells.get(columns.mask)) if columns.mask else ""
    try:
        texts = caption_cell(cells.get(columns.caption)) if columns.caption else None
        return TableRow(number, where, texts, label_text(cells.get(columns.label)) if columns.label else "", mask=mask)
    except BadSample as reason:
        return TableRow(number, where, problem=str(reason))


def _path(folder: Path, cell: Any) -> str:
    return "" if is_missing(cell) else below(folder, str(cell))


def caption_cell(value: Any) -> str | list[Any] | None:
    """A cell's caption or captions; None where it has none. BadSample where it holds something else."""
    if isinstance(value, str) and value.strip().lower() == "nan":  # as str() makes of pandas' NaN
        return None
    if not captions_of(value):
        return None
    return value if isinstance(value, str) else list(value)


def _scan(rows: Iterable[TableRow], label: str) -> tuple[int, bool, set[str]]:
    """How many rows there are, whether any caption is a list, and the labels that there are."""
    count, lists, names = 0, False, set()
    for row in rows:
        count, lists = count + 1, lists or isinstance(row.caption, list)
        if label and row.label:
            names.add(row.label)
            if len(names) > _LABELS:
                raise ValueError(f"column {label!r} holds more than {_LABELS:,} different values, so it is no label; leave --label-column out")
    return count, lists, names
