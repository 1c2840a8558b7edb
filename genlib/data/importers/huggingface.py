"""A Hugging Face data set: saved to disk, Parquet files, or a name on the hub; whole or streaming. The only place that imports `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from genlib.config import nearest
from genlib.data.codecs.decode import BadSample
from genlib.data.importers.convert import ConversionInput, RawSample
from genlib.data.importers.image_files import AUTO, NONE, mask_columns, mask_words
from genlib.data.importers.labels import as_number, in_words, label_text, numbered
from genlib.data.importers.table import caption_cell
from genlib.data.split_names import HELD_OUT, split_in, split_of_path
from genlib.plurals import counted

_MOST_LABELS = 100_000
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
    """The file itself, or a folder's files that have the split in their names or folders, else those without any split's name; in order."""
    if path.is_file():
        return [str(path)] if path.suffix == ".parquet" else []
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else []
    said = {file: split_of_path(file.relative_to(path).as_posix()) for file in found}
    wanted = split_in(split)
    own = [file for file in found if file.name.startswith(split)] or [file for file in found if wanted and said[file] == wanted]
    return [str(file) for file in own or [file for file in found if not said[file]]]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns; empty where there is none."""

    image: str
    caption: str
    label: str
    mask: str = ""


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows of a data set from `start` to `stop`, or of a streaming one its shard `start` of `stop`."""

    split: str
    start: int
    stop: int


def open_huggingface(
    where: HuggingfaceDataset, split: str = "train", validation_split: str = "", image: str = "", caption: str = "", label: str = "", mask: str = AUTO
) -> ConversionInput:
    """The rows of one split or two, in order. Columns for image and label that are not named are the only ones of their kind.

    The mask's is one of images that is called like it (`genlib.data.importers.image_files`), `none` is no column.
    """
    splits = [name for name in (split, validation_split) if name]
    found = {name: _opened(where, name) for name in splits}
    features = _features(found[split])
    columns = _columns(where.path, features, Columns(image, caption, label, mask))
    names = getattr(features.get(columns.label), "names", None)
    lists = type(features.get(columns.caption)).__name__ in ("List", "LargeList", "Sequence", "list")
    labels, own_names = ({}, []) if names or not columns.label else _labels(where, found, columns.label)
    read = partial(read_range, where, columns, validation_split, lists, labels)
    names = names or own_names
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
        said={
            "captions": f"column {columns.caption!r}{', lists' if lists else ''}" if columns.caption else "none",
            "labels": _label_words(columns.label, labels, names),
            "splits": ", ".join(f"{name} is {_written(name, validation_split)}" for name in splits),
            **mask_words(columns.mask, mask),
        },
    )


def _labels(where: HuggingfaceDataset, found: Mapping[str, Any], column: str) -> tuple[Mapping[str, int], list[str]]:
    """The labels of a column that names no classes. ValueError where it would have to be read to its end first."""
    if where.streaming:
        raise ValueError(f"{where.path}: the column {column!r} has no names of classes, which takes a look at all rows; leave --streaming out")
    texts = {label_text(value) for data in found.values() for value in data.unique(column)}
    if len(texts) > _MOST_LABELS:
        raise ValueError(f"column {column!r} holds more than {_MOST_LABELS:,} different values, so it is no label; leave --label-column out")
    return numbered(texts - {""})


def _label_words(column: str, labels: Mapping[str, int], names: Sequence[str]) -> str:
    if not column:
        return "none"
    return in_words(labels, names, f"column {column!r}") if labels else f"{counted(len(names), 'class', 'classes')} that column {column!r} names"


def _written(split: str, validation_split: str) -> str:
    """The split under which a data set's one is written."""
    return "validation" if split == validation_split or (not validation_split and split_in(split) in HELD_OUT) else "train"


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
    return [name for name in (columns.image, columns.caption, columns.label, columns.mask) if name]


def _columns(path: str, features: Mapping[str, Any], asked: Columns) -> Columns:
    """The columns, those not named found by their kind; ValueError where one is not there, or where pictures should be and are none."""

    def only(kind: str, *others: str) -> str:
        names = [name for name, feature in features.items() if type(feature).__name__ == kind and name not in others]
        return names[0] if len(names) == 1 else ""

    masks = mask_columns(asked.mask, features, (asked.image, asked.caption, asked.label))
    if asked.mask == AUTO:
        masks = [name for name in masks if type(features[name]).__name__ == "Image"]
    mask = masks[0] if masks else ""
    columns = Columns(asked.image or only("Image", mask), asked.caption, asked.label or only("ClassLabel"), mask)
    if not columns.image and asked.mask == AUTO:
        columns = Columns(only("Image"), columns.caption, columns.label)  # a set of masks alone
    if not columns.image:
        raise ValueError(f"{path}: which column holds the images? Give --image-column; there are: {', '.join(features)}")
    for name in _names(columns):
        if name not in features:
            raise ValueError(f"{path} has no column {name!r}.{nearest(name, list(features))} It has: {', '.join(features)}")
    if columns.caption and not _holds_texts(features[columns.caption]):
        raise ValueError(f"{path}: the column {columns.caption!r} holds {_kind(features[columns.caption])}; captions are texts or lists of texts")
    for name, option in ((columns.image, "--image-column"), (columns.mask, "--mask-column")):
        if name and not _may_hold_images(features[name]):
            way_out = f"give {option} another name{f' or {NONE}' if name == columns.mask else ''}"
            raise ValueError(f"{path}: the column {name!r} holds {_kind(features[name])} and no images, their bytes or paths; {way_out}")
    return columns


def _kind(feature: Any) -> str:
    return " ".join(str(feature).split())[:80]


def _holds_texts(feature: Any) -> bool:
    """Whether a column of this type holds texts, lists of texts, or nothing at all."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return getattr(inner, "dtype", "") in ("string", "large_string", "null")


def _may_hold_images(feature: Any) -> bool:
    """Whether a column of this type can hold images: as such, as bytes, as paths, or as the two together."""
    if isinstance(feature, Mapping):
        return not {"bytes", "path"}.isdisjoint(feature)
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", "") in ("binary", "large_binary", "string", "large_string")


def _row_ranges(split: str, data: Any, streaming: bool, size: int) -> Iterator[RowRange]:
    if streaming:
        yield from (RowRange(split, number, data.num_shards) for number in range(data.num_shards))
    else:
        yield from (RowRange(split, start, min(start + size, len(data))) for start in range(0, len(data), size))


def _few(read: Any, found: Mapping[str, Any], split: str, streaming: bool, count: int) -> Iterator[RawSample]:
    return iter(()) if streaming else read(RowRange(split, 0, min(count, len(found[split]))))


def read_range(
    where: HuggingfaceDataset, columns: Columns, validation_split: str, lists: bool, labels: Mapping[str, int], span: RowRange
) -> Iterator[RawSample]:
    """The samples of a span."""
    import datasets

    data = _opened(where, span.split).select_columns(_names(columns))
    for name in filter(None, (columns.image, columns.mask)):
        if isinstance(_features(data)[name], datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
    held_out = _written(span.split, validation_split) == "validation"
    chosen = "validation" if held_out else "train" if validation_split else ""
    if where.streaming:
        rows = enumerate(data.shard(span.stop, span.start))
        name = f"{span.split}:{span.start}:"
    else:
        rows = zip(range(span.start, span.stop), data.select(range(span.start, span.stop)), strict=True)
        name = f"{span.split}:"
    for number, row in rows:
        yield _raw(f"{name}{number}", row, columns, chosen, lists, labels)


def _raw(name: str, row: Mapping[str, Any], columns: Columns, split: str, lists: bool, labels: Mapping[str, int]) -> RawSample:
    caption: Any = None
    label: int | None = None
    problem = ""
    try:
        if columns.caption:
            caption = caption_cell(row.get(columns.caption))
            problem = "" if caption is not None else "missing caption"
        if columns.label:
            text = label_text(row.get(columns.label))
            label = labels.get(text) if labels else as_number(text)
            problem = problem or ("missing label" if label is None or label < 0 else "")
    except BadSample as reason:
        problem = str(reason)
    mask = _image(row.get(columns.mask)) if columns.mask else None
    problem = problem or ("missing mask" if columns.mask and mask is None else "")
    return RawSample(name, _image(row[columns.image]), [caption] if lists and isinstance(caption, str) else caption, label, split, problem, mask)


def _image(value: Any) -> bytes | Path | None:
    """Bytes, or a path, or the two as `datasets` stores them."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    return Path(value) if isinstance(value, str) else value if isinstance(value, bytes) else None
