"""Files of tables, of any format that is taken: the names of their columns, and the cells of each row."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BufferedReader, TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, AnyStr

from genlib.config import nearest
from genlib.data.importers.columns import is_header
from genlib.files import open_regular, read_regular, regular_status

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".pq")
"""Endings of tables."""
LOOKED_AT = 100
"""Rows from which columns and what they hold are told."""
_CELL_BYTES = 4 << 20
_JSON_BYTES = 1 << 30
_LINE_BYTES = 64 << 20
_END = "\x1fend of the table"  # a row of our own, which a quote that is not closed takes in


def columns_of(path: Path) -> list[str]:
    """Names of a table's columns. ValueError where it cannot be read."""
    state_of(path)
    ending = path.suffix.lower()
    if ending in (".parquet", ".pq"):
        return list(_parquet_file(path).schema_arrow.names)
    columns: dict[str, None] = {}
    for cells in islice(table_reader(path)([]), LOOKED_AT):
        columns.update(dict.fromkeys(cells) if not isinstance(cells, str) else {})
    return [column for column in columns if isinstance(column, str)]


def first_rows(path: Path) -> list[Mapping[str, Any]]:
    """The first rows that can be read, without columns of Parquet that hold bytes or structs."""
    if path.suffix.lower() not in (".parquet", ".pq"):
        return [cells for cells in islice(table_reader(path)([]), LOOKED_AT) if not isinstance(cells, str)]
    from pyarrow import types

    file = _parquet_file(path)
    bulky = (types.is_struct, types.is_binary, types.is_large_binary)
    readable = [field.name for field in file.schema_arrow if not any(is_bulky(field.type) for is_bulky in bulky)]
    return next((batch.to_pylist() for batch in file.iter_batches(batch_size=LOOKED_AT, columns=readable)), []) if readable else []


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


def state_of(path: Path) -> tuple[int, int, int]:
    """Size and times of a table, which change when it is written. ValueError where it cannot be opened."""
    try:
        status = regular_status(path)
    except OSError as error:
        raise ValueError(f"there is no table {path} that can be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_columns(path: Path, columns: Sequence[str], there: Sequence[str]) -> None:
    """ValueError where a column is not there."""
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
            check_columns(path, columns, reader.fieldnames)
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
        for line in islice(_lines(file, path, b""), LOOKED_AT):
            cells = _json_object(line)
            seen.update(dict.fromkeys(cells) if isinstance(cells, dict) else {})
            objects += isinstance(cells, dict)
        if not objects and file.tell():
            raise ValueError(f"{path}: none of its first lines is a JSON object, as lines of {path.suffix} are; write a list of objects as .json")
        check_columns(path, columns, list(seen))
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
    there = dict.fromkeys(name for row in rows[:LOOKED_AT] if isinstance(row, dict) for name in row)
    check_columns(path, columns, list(there))
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
    check_columns(path, columns, schema.names)
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
