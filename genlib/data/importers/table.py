"""A table of image paths, captions and labels: CSV, TSV, JSON lines, a JSON list of objects, or Parquet. Paths are relative to the table."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader, TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, AnyStr

from genlib.config import nearest
from genlib.data.codecs.captions import captions_of, is_missing
from genlib.data.codecs.decode import BadSample
from genlib.data.importers.columns import TableColumns, found_columns, is_header
from genlib.data.importers.convert import ConversionInput, RawSample
from genlib.data.importers.image_files import AUTO, NONE, mask_columns, mask_words, why_no_paths
from genlib.data.importers.labels import in_words, label_text, numbered
from genlib.files import open_regular, read_regular, regular_status

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".pq")
"""Endings of tables."""
_CELL_BYTES = 4 << 20
_JSON_BYTES = 1 << 30
_LINE_BYTES = 64 << 20
_LABELS = 100_000
_END = "\x1fend of the table"  # a row of our own, which a quote that is not closed takes in
_LOOKED_AT = 100  # rows of JSON lines in which a column must turn up, and in which masks show what they are


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
    before = _state(path)
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
            if _state(path) != before:
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
    _check_columns(path, [name for name in asked.names() if name not in (AUTO, NONE)], there)
    return found_columns(path, asked, there, _first_rows(path))


def _none(what: str, by_itself: Collection[str], path: Path) -> str:
    """That there is no such column, and where it was looked for the way to name one."""
    if f"{what}s" not in by_itself:
        return "none"
    return f"none (no column has a usual name; --{what}-column names one of {', '.join(columns_of(path))})"


def _first_rows(path: Path) -> list[Mapping[str, Any]]:
    """The first rows that can be read, without columns of Parquet that hold bytes or structs."""
    if path.suffix.lower() not in (".parquet", ".pq"):
        return [cells for cells in islice(table_reader(path)([]), _LOOKED_AT) if not isinstance(cells, str)]
    from pyarrow import types

    file = _parquet_file(path)
    bulky = (types.is_struct, types.is_binary, types.is_large_binary)
    readable = [field.name for field in file.schema_arrow if not any(is_bulky(field.type) for is_bulky in bulky)]
    return next((batch.to_pylist() for batch in file.iter_batches(batch_size=_LOOKED_AT, columns=readable)), []) if readable else []


def _mask_column(path: Path, asked: str, others: TableColumns) -> str:
    """The column with the masks, empty where there is none. ValueError where one that is asked for holds something else than paths."""
    for column in mask_columns(asked, columns_of(path), others.names()):
        rows = islice(table_reader(path, others.caption)([others.image, column]), _LOOKED_AT)
        values = [cells.get(column) for cells in rows if not isinstance(cells, str)]
        why_not = why_no_paths(values)
        if why_not and asked != AUTO:
            raise ValueError(f"{path}: the column {column!r} holds {why_not}; a mask is a file that its row names")
        if not why_not and not all(is_missing(value) or value == "" for value in values):
            return column
    return "" if asked in (AUTO, NONE) else asked


def _state(path: Path) -> tuple[int, int, int]:
    """Size and times of a table, which change when it is written. ValueError where it cannot be opened."""
    try:
        status = regular_status(path)
    except OSError as error:
        raise ValueError(f"there is no table {path} that can be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


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


def table_reader(path: Path, caption: str = "") -> Callable[[Sequence[str]], Iterator[Mapping[str, Any] | str]]:
    """A function that reads the table: given columns, yields each row's cells by column, or the reason why a row has none."""
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return partial(_csv, path, "\t" if ending == ".tsv" else "")
    if ending in (".jsonl", ".ndjson"):
        return partial(_json_lines, path)
    if ending == ".json":
        return partial(_json_list, path)
    if ending in (".parquet", ".pq"):
        return partial(_parquet, path, caption)
    raise ValueError(f"{path}: a table is {', '.join(TABLES)}")


def columns_of(path: Path) -> list[str]:
    """Names of a table's columns. ValueError where it cannot be read."""
    _state(path)
    ending = path.suffix.lower()
    if ending in (".parquet", ".pq"):
        return list(_parquet_file(path).schema_arrow.names)
    columns: dict[str, None] = {}
    for cells in islice(table_reader(path)([]), _LOOKED_AT):
        columns.update(dict.fromkeys(cells) if not isinstance(cells, str) else {})
    return [column for column in columns if isinstance(column, str)]


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


def _check_columns(path: Path, columns: Sequence[str], there: Sequence[str]) -> None:
    for column in columns:
        if column not in there:
            raise ValueError(f"{path} has no column {column!r}.{nearest(column, list(there))} It has: {', '.join(there)}")


def _csv(path: Path, delimiter: str, columns: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    csv.field_size_limit(_CELL_BYTES)
    with TextIOWrapper(BufferedReader(open_regular(path)), encoding=_encoding(path), errors="surrogateescape", newline="") as file:
        delimiter = _delimiter(file, delimiter)
        reader = csv.DictReader(chain(_lines(file, path, ""), [f"{_END}\n"]), delimiter=delimiter, skipinitialspace=True)
        begins = ends = 0
        try:
            first = [name.strip() for name in reader.fieldnames or () if name != _END]
            reader.fieldnames = first
            if first and not is_header(first):
                reader.fieldnames = [str(number) for number in range(1, len(first) + 1)]
                yield dict(zip(reader.fieldnames, first, strict=True))
            _check_columns(path, columns, reader.fieldnames)
            for cells in reader:
                if _END in cells.values():
                    return
                begins, ends = ends, reader.line_num
                yield cells if None not in cells else "more cells than columns"
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; repair it, or give the table as .jsonl") from None
        raise ValueError(f"{path}: a quote that a cell begins with is not closed, at line {max(2, begins + 1)} or below; write quotes in texts twice")


def _encoding(path: Path) -> str:
    """UTF-8, or UTF-16 where a mark at the start says so, as spreadsheets write it."""
    with open_regular(path) as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _delimiter(file: IO[str], known: str) -> str:
    """What stands between columns: a comma, or the semicolon, tab or bar that others write; a first line `sep=;`, which says so, is read over."""
    header = file.readline(_LINE_BYTES)
    if said := re.fullmatch(r"sep=(.)", header.strip("\r\n")):
        return said[1]
    file.seek(0)
    return next((sign for sign in f"{known},;\t|" if sign in header), ",")


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    if _encoding(path) == "utf-16":
        raise ValueError(f"{path} is UTF-16; write it as UTF-8: `iconv -f UTF-16 -t UTF-8`")
    with BufferedReader(open_regular(path)) as file:
        seen: dict[str, None] = {}
        objects = 0
        for line in islice(_lines(file, path, b""), _LOOKED_AT):
            cells = _json_object(line)
            seen.update(dict.fromkeys(cells) if isinstance(cells, dict) else {})
            objects += isinstance(cells, dict)
        if not objects and file.tell():
            raise ValueError(f"{path}: none of its first lines is a JSON object, as lines of {path.suffix} are; write a list of objects as .json")
        _check_columns(path, columns, list(seen))
        file.seek(0)
        yield from (_json_object(line) for line in _lines(file, path, b"") if line.strip())


def _json_list(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    try:
        rows = json.loads(read_regular(path, _JSON_BYTES).removeprefix(codecs.BOM_UTF8))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); write it anew") from None
    if not isinstance(rows, list):
        names = f" with {', '.join(list(rows)[:5])}" if isinstance(rows, dict) else ""
        raise ValueError(
            f"{path} is JSON{names}, and no list of objects with a path and a caption each, as a table is; write it as one, or as .jsonl"
        )
    there = dict.fromkeys(name for row in rows[:_LOOKED_AT] if isinstance(row, dict) for name in row)
    _check_columns(path, columns, list(there))
    yield from (row if isinstance(row, dict) else "bad JSON" for row in rows)


def _lines(file: IO[AnyStr], path: Path, end: AnyStr) -> Iterator[AnyStr]:
    """Lines of a table, none of which may take all memory: a file with holes is one line."""
    for number, line in enumerate(iter(partial(file.readline, _LINE_BYTES), end), 1):
        if len(line) == _LINE_BYTES:
            raise ValueError(f"{path}, line {number} has {_LINE_BYTES >> 20} MB or more, so it is no table; write it anew")
        yield line


def _json_object(line: bytes) -> Mapping[str, Any] | str:
    try:
        cells = json.loads(line.removeprefix(codecs.BOM_UTF8)) if len(line) <= _CELL_BYTES else None
    except (ValueError, RecursionError):
        return "bad JSON"
    return cells if isinstance(cells, dict) else "bad JSON"


def _parquet(path: Path, caption: str, columns: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    import pyarrow

    file = _parquet_file(path)
    schema = file.schema_arrow
    _check_columns(path, columns, schema.names)
    if pyarrow.types.is_nested(schema.field(columns[0]).type) or pyarrow.types.is_binary(schema.field(columns[0]).type):
        raise ValueError(f"{path}: the column {columns[0]!r} holds images and not paths; use the verb huggingface")
    if caption and not _is_text(schema.field(caption).type):
        raise ValueError(f"{path}: the column {caption!r} holds {schema.field(caption).type}; captions are texts or lists of texts")
    try:
        for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read to its end ({' '.join(str(error).split())}); write it anew") from None


def _parquet_file(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None


def _is_text(kind: Any) -> bool:
    """Whether a column's type is text, a list of texts, or nothing at all."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)
