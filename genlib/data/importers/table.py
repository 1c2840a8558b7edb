"""A table of image paths, captions and labels: CSV, TSV, JSON lines or Parquet. Paths are relative to the table."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any, AnyStr

from genlib.config import nearest
from genlib.data.importers.convert import ConversionInput, RawSample
from genlib.files import open_regular, regular_status

_CELL_BYTES = 4 << 20
_LINE_BYTES = 64 << 20
_LABELS = 100_000
_LOOKED_AT = 100  # rows of JSON lines in which a column must turn up


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line: what its cells hold, or why it cannot be read."""

    number: int
    image: str = ""
    caption: str | None = None
    label: str = ""
    problem: str = ""


def open_table(path: Path, image: str, caption: str = "", label: str = "") -> ConversionInput:
    """The rows of a table, in order, with the names of its columns. ValueError where the table or a column is not there.

    Labels that are all whole numbers are used as they are; others are class names, numbered in sorted order.
    """
    before = _state(path)
    rows = partial(_rows, _reader(path), image, caption, label)
    count, names = _scan(rows(), label)
    if not count:
        raise ValueError(f"{path} has no rows")
    numbers = {name: str(number) for number, name in enumerate(names)}
    read = partial(read_rows, path.absolute().parent, bool(caption), bool(label), numbers)

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
        identity={"rows": count, "digest": digest, "image_column": image, "caption_column": caption, "label_column": label},
        total=count,
        facts={"name": path.stem, **({"class_names": names} if names else {})},
    )


def _state(path: Path) -> tuple[int, int, int]:
    """Size and times of a table, which change when it is written. ValueError where it cannot be opened."""
    try:
        status = regular_status(path)
    except OSError as error:
        raise ValueError(f"there is no table {path} that can be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_rows(folder: Path, captioned: bool, labelled: bool, numbers: Mapping[str, str], rows: Sequence[TableRow]) -> Iterator[RawSample]:
    """The samples of some rows."""
    for row in rows:
        label = numbers.get(row.label, row.label) if labelled else None
        problem = row.problem or _problem(row, captioned, labelled)
        yield RawSample(row.image or f"row {row.number}", folder / row.image, row.caption if captioned else None, label, problem=problem)


def _problem(row: TableRow, captioned: bool, labelled: bool) -> str:
    if not row.image:
        return "no image path"
    if "://" in row.image:
        return "a URL and no file"
    if captioned and row.caption is None:
        return "missing caption"
    return "missing label" if labelled and not row.label else ""


def _reader(path: Path) -> Callable[[Sequence[str]], Iterator[Mapping[str, Any] | str]]:
    """A function that reads the table: given columns, yields each row's cells by column, or the reason why a row has none."""
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return partial(_csv, path, "\t" if ending == ".tsv" else ",")
    if ending in (".jsonl", ".ndjson"):
        return partial(_json_lines, path)
    if ending in (".parquet", ".pq"):
        return partial(_parquet, path)
    raise ValueError(f"{path}: a table is .csv, .tsv, .jsonl or .parquet")


def _rows(reader: Callable[[Sequence[str]], Iterator[Mapping[str, Any] | str]], image: str, caption: str, label: str) -> Iterator[TableRow]:
    columns = [column for column in (image, caption, label) if column]
    for number, cells in enumerate(reader(columns), 1):
        if isinstance(cells, str):
            yield TableRow(number, problem=cells)
        else:
            text = cells.get(caption)
            yield TableRow(number, _text(cells.get(image)), None if text is None else _text(text), _text(cells.get(label)))


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _scan(rows: Iterable[TableRow], label: str) -> tuple[int, list[str]]:
    """How many rows there are, and the names of their classes: none where labels are numbers, or there are no labels."""
    count, names = 0, set()
    for row in rows:
        count += 1
        if label and row.label:
            names.add(row.label)
            if len(names) > _LABELS:
                raise ValueError(f"column {label!r} holds more than {_LABELS:,} different values, so it is no label; leave --label-column out")
    return count, [] if all(re.fullmatch(r"\d{1,9}", name) for name in names) else sorted(names)


def _check_columns(path: Path, columns: Sequence[str], there: Sequence[str]) -> None:
    for column in columns:
        if column not in there:
            raise ValueError(f"{path} has no column {column!r}.{nearest(column, list(there))} It has: {', '.join(there)}")


def _csv(path: Path, delimiter: str, columns: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    csv.field_size_limit(_CELL_BYTES)
    with TextIOWrapper(BufferedReader(open_regular(path)), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(_lines(file, path, ""), delimiter=delimiter)
        try:
            _check_columns(path, columns, list(reader.fieldnames or ()))
            yield from reader
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; repair it, or give the table as .jsonl") from None


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    with BufferedReader(open_regular(path)) as file:
        seen: dict[str, None] = {}
        for line in islice(_lines(file, path, b""), _LOOKED_AT):
            cells = _json_object(line)
            seen.update(dict.fromkeys(cells) if isinstance(cells, dict) else {})
        _check_columns(path, columns, list(seen))
        file.seek(0)
        yield from (_json_object(line) for line in _lines(file, path, b"") if line.strip())


def _lines(file: IO[AnyStr], path: Path, end: AnyStr) -> Iterator[AnyStr]:
    """Lines of a table, none of which may take all memory: a file with holes is one line."""
    for number, line in enumerate(iter(partial(file.readline, _LINE_BYTES), end), 1):
        if len(line) == _LINE_BYTES:
            raise ValueError(f"{path}, line {number} has {_LINE_BYTES >> 20} MB or more, so it is no table; write it anew")
        yield line


def _json_object(line: bytes) -> Mapping[str, Any] | str:
    try:
        cells = json.loads(line) if len(line) <= _CELL_BYTES else None
    except (ValueError, RecursionError):
        return "bad JSON"
    return cells if isinstance(cells, dict) else "bad JSON"


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None
    schema = file.schema_arrow
    _check_columns(path, columns, schema.names)
    if pyarrow.types.is_nested(schema.field(columns[0]).type) or pyarrow.types.is_binary(schema.field(columns[0]).type):
        raise ValueError(f"{path}: the column {columns[0]!r} holds images and not paths; use the verb huggingface")
    try:
        for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read to its end ({' '.join(str(error).split())}); write it anew") from None
