"""A Hugging Face data set: saved to disk, Parquet files, or a name on the hub; whole or streaming. The only place that imports `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from genlib.config import nearest
from genlib.data.importers.convert import ConversionInput, RawSample

VALIDATION = ("validation", "valid", "val", "test", "dev")
_LOOKED_AT = 5  # first rows of a streaming set, from which the types of columns are inferred


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingfaceDataset:
    """A data set and how to open it; picklable, so that every process opens its own."""

    path: str
    config: str = ""
    revision: str = ""
    streaming: bool = False

    def open(self, split: str) -> Any:
        """A Dataset, or an IterableDataset where it streams. ValueError says in one sentence why it cannot be opened."""
        try:
            import datasets
            from datasets.exceptions import DatasetsError
        except ImportError:
            raise ValueError("Hugging Face data sets need the package `datasets`; pip install 'genlib[hf]'") from None
        folder = Path(self.path).expanduser()
        try:
            if (folder / "state.json").is_file():
                return datasets.load_from_disk(str(folder))
            if (folder / "dataset_dict.json").is_file():
                return self._chosen(datasets.load_from_disk(str(folder)), split)
            if files := parquet_files(folder, split):
                return datasets.load_dataset("parquet", data_files={split: files}, split=split, streaming=self.streaming)
            if folder.exists():
                raise ValueError(f"{folder} is no folder that `save_to_disk` wrote, and holds no .parquet files of the split {split!r}")
            return datasets.load_dataset(self.path, self.config or None, split=split, revision=self.revision or None, streaming=self.streaming)
        except (OSError, DatasetsError, ConnectionError) as error:
            way = "" if Path(self.path).exists() else "; name a folder or a file of this machine, or a data set of the hub where it can be reached"
            raise ValueError(f"{self.path} cannot be opened: {' '.join(str(error).split())}{way}") from None

    def _chosen(self, splits: Any, split: str) -> Any:
        if split not in splits:
            raise ValueError(f"{self.path} has no split {split!r}; it has: {', '.join(splits)}")
        return splits[split]


def parquet_files(path: Path, split: str) -> list[str]:
    """The file itself, or a folder's files whose names begin with the split, else all; in order."""
    if path.is_file():
        return [str(path)] if path.suffix == ".parquet" else []
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else []
    return [str(file) for file in found if file.name.startswith(split)] or [str(file) for file in found]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns; empty where there is none."""

    image: str
    caption: str
    label: str


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows of a data set from `start` to `stop`, or of a streaming one its shard `start` of `stop`."""

    split: str
    start: int
    stop: int


def open_huggingface(
    where: HuggingfaceDataset, split: str = "train", validation_split: str = "", image: str = "", caption: str = "", label: str = ""
) -> ConversionInput:
    """The rows of one split or two, in order. Columns for image and label that are not named are the only ones of their kind."""
    splits = [name for name in (split, validation_split) if name]
    found = {name: _opened(where, name) for name in splits}
    features = _features(found[split])
    columns = _columns(where.path, features, image, caption, label)
    names = getattr(features.get(columns.label), "names", None)
    read = partial(read_range, where, columns, validation_split)
    total = None if where.streaming else sum(len(data) for data in found.values())
    state = {name: _state(data, where.streaming) for name, data in found.items()}
    how = {"config": where.config, "revision": where.revision, "streaming": where.streaming}
    identity = {**how, "splits": splits, "columns": _names(columns), "state": state}
    return ConversionInput(
        read=read,
        cut=lambda size: [span for name, data in found.items() for span in _row_ranges(name, data, where.streaming, size)],
        few=lambda count: _few(read, found, split, where.streaming, count),
        identity=identity,
        total=total,
        facts={"name": Path(where.path).name, **({"class_names": list(names)} if names else {})},
    )


@lru_cache(maxsize=4)
def _opened(where: HuggingfaceDataset, split: str) -> Any:
    return where.open(split)


def _state(data: Any, streaming: bool) -> Any:
    """Identity of a data set's content, as far as the library knows it.

    `_fingerprint` is the one name for it, shown in the library's own guide to its cache; a test pins the release.
    """
    return [data.num_shards] if streaming else [len(data), data._fingerprint]


def _features(data: Any) -> Mapping[str, Any]:
    """The type of each column. A streaming set may not know them before its first rows are read."""
    import datasets

    return data.features or datasets.Dataset.from_list(list(data.take(_LOOKED_AT))).features


def _names(columns: Columns) -> list[str]:
    return [name for name in (columns.image, columns.caption, columns.label) if name]


def _columns(path: str, features: Mapping[str, Any], image: str, caption: str, label: str) -> Columns:
    """The columns, those not named found by their kind; ValueError where one is not there."""

    def only(kind: str) -> str:
        names = [name for name, feature in features.items() if type(feature).__name__ == kind]
        return names[0] if len(names) == 1 else ""

    columns = Columns(image or only("Image"), caption, label or only("ClassLabel"))
    if not columns.image:
        raise ValueError(f"{path}: which column holds the images? Give --image-column; there are: {', '.join(features)}")
    for name in _names(columns):
        if name not in features:
            raise ValueError(f"{path} has no column {name!r}.{nearest(name, list(features))} It has: {', '.join(features)}")
    return columns


def _row_ranges(split: str, data: Any, streaming: bool, size: int) -> Iterator[RowRange]:
    if streaming:
        yield from (RowRange(split, number, data.num_shards) for number in range(data.num_shards))
    else:
        yield from (RowRange(split, start, min(start + size, len(data))) for start in range(0, len(data), size))


def _few(read: Any, found: Mapping[str, Any], split: str, streaming: bool, count: int) -> Iterator[RawSample]:
    return iter(()) if streaming else read(RowRange(split, 0, min(count, len(found[split]))))


def read_range(where: HuggingfaceDataset, columns: Columns, validation_split: str, span: RowRange) -> Iterator[RawSample]:
    """The samples of a span."""
    import datasets

    data = _opened(where, span.split).select_columns(_names(columns))
    if isinstance(_features(data)[columns.image], datasets.Image):
        data = data.cast_column(columns.image, datasets.Image(decode=False))
    held_out = "validation" if span.split == validation_split or (not validation_split and span.split in VALIDATION) else ""
    chosen = "train" if validation_split and not held_out else held_out
    if where.streaming:
        rows = enumerate(data.shard(span.stop, span.start))
        name = f"{span.split}:{span.start}:"
    else:
        rows = zip(range(span.start, span.stop), data.select(range(span.start, span.stop)), strict=True)
        name = f"{span.split}:"
    for number, row in rows:
        yield _raw(f"{name}{number}", row, columns, chosen)


def _raw(name: str, row: Mapping[str, Any], columns: Columns, split: str) -> RawSample:
    caption, label = row.get(columns.caption), row.get(columns.label)
    if isinstance(caption, list):
        caption = next(iter(caption), None)
    problem = ""
    if columns.caption and not isinstance(caption, str):
        problem = "missing caption"
    elif columns.label and (label is None or label == -1):
        problem = "missing label"
    return RawSample(name, _image(row[columns.image]), caption, label, split, problem)


def _image(value: Any) -> bytes | Path | None:
    """Bytes, or a path, or the two as `datasets` stores them."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    return Path(value) if isinstance(value, str) else value if isinstance(value, bytes) else None
