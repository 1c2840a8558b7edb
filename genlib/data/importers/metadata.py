"""Metadata files of image folders, as `datasets` reads them: metadata.csv, .jsonl or .parquet in a folder, for the images of it and below.

The column `file_name`, or one that ends in `_file_name`, has paths relative to the file; see the guide "Create an image dataset" of `datasets`.
The labels of StyleGAN's folders and zips are read too: dataset.json, {"labels": [[path, label], ...]} or {"labels": {path: label}}.
Several rows of a file for one image are several captions of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genlib.data.codecs.captions import has_caption, is_missing
from genlib.data.codecs.decode import BadSample
from genlib.data.importers.columns import CAPTION_COLUMNS
from genlib.data.importers.image_files import AUTO, mask_columns, why_no_paths
from genlib.data.importers.labels import label_text
from genlib.data.importers.table import below, caption_cell
from genlib.data.importers.table_files import columns_of, table_reader
from genlib.files import read_regular

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "dataset.json")
_JSON_BYTES = 1 << 30
_LABEL = "label"


@dataclass(slots=True)
class MetadataRow:
    """What a metadata file says of one image."""

    caption: str | list[Any] | None = None
    label: str = ""
    problem: str = ""
    mask: str = ""
    """Path of its mask below the root."""


@dataclass(slots=True)
class Metadata:
    """All metadata files below a root: rows by path of the image."""

    files: list[str]
    rows: dict[str, MetadataRow] = field(default_factory=dict)
    caption_column: str = ""
    label_column: str = ""
    mask_column: str = ""
    says_no_labels: str = ""
    """The dataset.json that says so, as StyleGAN writes it."""

    @property
    def masked(self) -> bool:
        """Whether they name masks."""
        return bool(self.mask_column)

    @property
    def captioned(self) -> bool:
        """Whether they have captions."""
        return bool(self.caption_column)

    @property
    def labelled(self) -> bool:
        """Whether they have labels."""
        return bool(self.label_column)

    @property
    def labels(self) -> set[str]:
        """All labels."""
        return {row.label for row in self.rows.values() if row.label}

    def in_words(self) -> str:
        """Where captions are from, for the result."""
        return f"column {self.caption_column!r} of {self.files[0]}" + (f" and {len(self.files) - 1:,} more" if len(self.files) > 1 else "")


def read_metadata(root: Path, files: Sequence[str], caption_column: str = "") -> Metadata:
    """The rows of some metadata files. ValueError where one has no column of file names, several that may be the
    caption, or where a dataset.json of labels is damaged."""
    found = Metadata(list(files))
    for name in sorted(files, key=lambda path: path.count("/")):  # the nearest file to an image has the last word
        path = root / name
        if path.name == "dataset.json":
            _read_labels(found, root, name)
            continue
        columns = columns_of(path)
        names = [column for column in columns if column.endswith("file_name")]
        image = next((column for column in ("file_name", "image_file_name", *names) if column in names and "mask" not in column), "")
        if not image:
            way = f"read it as a table, `prepare_data.py table {path} --image-column ...`"
            raise ValueError(f"{path} has no column file_name with the paths of images, but {', '.join(columns)}; name it so, or {way}")
        rows = list(table_reader(path)([image, *(column for column in columns if column != image)]))
        caption = _caption_column(path, [column for column in columns if not column.endswith("file_name")], rows, caption_column)
        found.caption_column = found.caption_column or caption
        found.label_column = found.label_column or (_LABEL if _LABEL in columns and caption != _LABEL else "")
        here: dict[str, MetadataRow] = {}
        mask = next((one for one in mask_columns(AUTO, columns, (image, caption)) if not why_no_paths(_values(rows, one))), "")
        found.label_column = "" if found.label_column == mask else found.label_column
        found.mask_column = found.mask_column or mask
        for cells in table_reader(path)([column for column in (image, caption, found.label_column, mask) if column]):
            if isinstance(cells, str) or is_missing(cells.get(image)):
                found.rows.setdefault(f"{name}: a row without a file name", MetadataRow(problem="bad row in a metadata file"))
                continue
            where = _below(root, os.path.dirname(name), str(cells[image]))
            row = _row(cells, caption, found.label_column)
            row.mask = _below(root, os.path.dirname(name), str(cells[mask])) if mask and not is_missing(cells.get(mask)) and cells[mask] else ""
            here[where] = _joined(here[where], row) if where in here else row
        found.rows |= here
    if any(isinstance(row.caption, list) for row in found.rows.values()):
        for row in found.rows.values():
            row.caption = [row.caption] if isinstance(row.caption, str) else row.caption
    return found


def _values(rows: Sequence[Mapping[str, Any] | str], column: str) -> Iterator[Any]:
    """What a column holds; where it is nothing at all, None, which names no path."""
    found = [row.get(column) for row in rows if not isinstance(row, str) and not is_missing(row.get(column)) and row.get(column) != ""]
    return iter(found or [0])


def stylegan_labels(data: bytes, name: object) -> list[tuple[str, Any]] | None:
    """Path and label of each image that a dataset.json of StyleGAN lists, none where it says so; None where it is of another kind.

    ValueError where it is no JSON, or lists something else.
    """
    try:
        values = json.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON ({error}), so its labels cannot be read; write it anew, or take it away") from None
    if not isinstance(values, dict) or "labels" not in values:
        return None
    listed = values["labels"] or []
    pairs = list(listed.items()) if isinstance(listed, dict) else listed
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        way_out = 'write {"labels": [["00000/img00000000.png", 3], ...]}, or null for none'
        raise ValueError(f"{name}: its labels are no list of [path, label]; {way_out}")
    return [] if all(label is None for _, label in pairs) else [(path, label) for path, label in pairs]


def _read_labels(found: Metadata, root: Path, name: str) -> None:
    """Adds the labels of a dataset.json, which has none where it is of another kind."""
    pairs = stylegan_labels(read_regular(root / name, _JSON_BYTES), root / name)
    if pairs == []:
        found.says_no_labels = name
    for path, label in pairs or ():
        row = found.rows.setdefault(_below(root, os.path.dirname(name), path), MetadataRow())
        try:
            row.label = label_text(label)
        except BadSample as reason:
            row.problem = str(reason)
    found.label_column = found.label_column or ("labels" if pairs else "")


def _below(root: Path, folder: str, name: str) -> str:
    """The path below the root of an image that is named from one of its folders."""
    path = os.path.join(folder, below(root / folder, name))
    return os.path.normpath(os.path.relpath(path, root.absolute()) if os.path.isabs(path) else path)


def _joined(first: MetadataRow, second: MetadataRow) -> MetadataRow:
    """What two rows say of one image: all captions once each, and one label."""
    if first.problem or second.problem or (first.label and second.label and first.label != second.label):
        return MetadataRow(problem=first.problem or second.problem or "two labels in a metadata file")
    captions: dict[str, None] = {}
    for row in (first, second):
        captions |= dict.fromkeys([row.caption] if isinstance(row.caption, str) else row.caption or ())
    text = list(captions) if len(captions) > 1 else next(iter(captions), None)
    return MetadataRow(text, first.label or second.label, mask=first.mask or second.mask)


def _row(cells: Mapping[str, Any], caption: str, label: str) -> MetadataRow:
    try:
        return MetadataRow(caption_cell(cells.get(caption)) if caption else None, label_text(cells.get(label)) if label else "")
    except BadSample as reason:
        return MetadataRow(problem=str(reason))


def _caption_column(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any] | str], asked: str) -> str:
    if asked:
        if asked not in columns:
            raise ValueError(f"{path} has no column {asked!r}; it has: {', '.join(columns)}")
        return asked
    if known := [column for column in CAPTION_COLUMNS if column in columns]:
        return known[0]
    texts = [column for column in columns if column != _LABEL and any(not isinstance(row, str) and has_caption(row.get(column)) for row in rows)]
    if len(texts) > 1:
        raise ValueError(f"{path}: which column holds the captions? Give --caption-column, one of {', '.join(texts)}")
    return texts[0] if texts else ""
