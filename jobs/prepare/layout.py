"""What lies at a path that is no shards: which layout of the field it is, what a conversion would take, and the command."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

from genlib.data.codecs.decode import BadSample
from genlib.data.importers.convert import ConversionInput
from genlib.data.importers.folder import open_folder
from genlib.data.importers.image_files import IMAGES
from genlib.data.importers.labels import in_words, label_text, numbered
from genlib.data.importers.metadata import stylegan_labels
from genlib.data.importers.table import TABLES, columns_of
from genlib.data.shards.discovery import COMPRESSED

_COMMAND = "python jobs/prepare_data.py"
_JSON_BYTES = 1 << 30


def layout(path: Path) -> str | None:
    """Lines on a folder, a table or a zip; None where the path is or holds tars, or is none of these."""
    if path.is_dir():
        return None if any(file.name.endswith((".tar", *COMPRESSED)) for file in path.rglob("*.t*")) else "\n".join(_folder(path))
    if path.suffix.lower() in TABLES and path.is_file():
        return "\n".join(_table(path))
    return "\n".join(_zip(path)) if path.suffix.lower() == ".zip" and path.is_file() else None


def _line(name: str, text: str) -> str:
    return f"{name:<16} {text}"


def _folder(path: Path) -> Iterator[str]:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        yield _line("layout", "a data set of the library `datasets`, saved to disk")
        yield _line("command", f"{_COMMAND} huggingface {quote(str(path))} --out OUT --caption-column COLUMN")
        return
    parquet = next(iter(sorted(path.rglob("*.parquet"))), None)
    if parquet is not None and not any(file.suffix.lower() in IMAGES for file in path.rglob("*")):
        yield _line("layout", f"Parquet files, with the columns {', '.join(columns_of(parquet))}")
        command = f"{_COMMAND} huggingface {quote(str(path))} --out OUT --caption-column COLUMN"
        yield _line("command", f"{command}, where the images are in the files; of paths: table")
        return
    source = open_folder(path)
    yield _line("layout", _kind(path, source))
    yield _line("images", f"{source.total:,}")
    yield from (_line(name, words) for name, words in source.said.items())
    yield _line("command", f"{_COMMAND} folder {quote(str(path))} --out OUT{' --repeats' if 'repeats' in source.said else ''}")


def _kind(path: Path, source: ConversionInput) -> str:
    if "repeats" in source.said:
        return "folders with repeats, as sd-scripts has them"
    if " metadata" in source.said["files"]:
        stylegan = (path / "dataset.json").is_file()
        return "StyleGAN's folder with dataset.json" if stylegan else "an image folder with metadata, as `datasets` and diffusers"
    if not source.said["captions"].startswith("none"):
        return "images with captions beside them"
    return "images in class folders" if not source.said["labels"].startswith("none") else "images without captions and labels"


def _table(path: Path) -> Iterator[str]:
    columns = columns_of(path)
    yield _line("layout", f"a table with the columns {', '.join(columns)}")
    image = next((name for name in columns if name.lower() in ("image", "path", "file", "file_name", "filename", "filepath", "image_path")), "COLUMN")
    text = next((name for name in columns if name.lower() in ("text", "caption", "captions", "prompt", "title")), "")
    label = next((name for name in columns if name.lower() in ("label", "class")), "")
    more = f"{f' --caption-column {quote(text)}' if text else ''}{f' --label-column {quote(label)}' if label else ''}"
    yield _line("command", f"{_COMMAND} table {quote(str(path))} --out OUT --image-column {quote(image)}{more}")
    if image == "COLUMN" and any(name.lower() == "url" for name in columns):
        yield _line("note", "its images are URLs: fetch them with img2dataset, whose shards are read as they are")


def _zip(path: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(path) as file:
            names = [name for name in file.namelist() if not name.endswith("/")]
            listed = min((name for name in names if name.rpartition("/")[2] == "dataset.json"), key=len, default="")
            if listed and file.getinfo(listed).file_size > _JSON_BYTES:
                raise ValueError(f"{path}: its {listed} has more than {_JSON_BYTES >> 20} MB, so it is no list of labels; unpack it and take it out")
            pairs = stylegan_labels(file.read(listed), f"{path}: {listed}") if listed else None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:  # cut off, packed by other means, a password
        raise ValueError(f"{path} cannot be read as a zip ({error}); get it again, without a password") from None
    images = [name for name in names if os.path.splitext(name)[1].lower() in IMAGES]
    kind = "a zip" if pairs is None else f"StyleGAN's zip, {'with' if pairs else 'without'} labels"
    yield _line("layout", f"{kind}, {len(names):,} files")
    yield _line("images", f"{len(images):,}")
    if pairs:
        labels, classes = numbered({text for _, label in pairs if (text := _label(label))})
        above = listed.rpartition("/")[0]
        labelled = {os.path.normpath(os.path.join(above, name.replace("\\", "/"))) for name, label in pairs if _label(label)}
        yield _line("labels", f"{in_words(labels, classes, listed)}; of {len(labelled & set(images)):,} images")
    folder = quote(path.stem)
    yield _line("command", f"unzip -q {quote(str(path))} -d {folder} && {_COMMAND} folder {folder} --out OUT")


def _label(value: Any) -> str:
    """A label as text; empty where it is missing, or no class."""
    try:
        return label_text(value)
    except BadSample:
        return ""
