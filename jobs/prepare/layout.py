"""What lies at a path that is no shards: which layout of the field it is, what a conversion would take, and the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from PIL import Image

from genlib.data.codecs.decode import LIMIT_BYTES, BadSample
from genlib.data.codecs.encode import SkippedSample, file_bytes, stored_image
from genlib.data.importers.columns import TableColumns
from genlib.data.importers.convert import ConversionInput
from genlib.data.importers.folder import open_folder
from genlib.data.importers.image_files import AUTO, IMAGES
from genlib.data.importers.pairs import pictures_below, sides_below
from genlib.data.importers.table import columns_in
from genlib.data.importers.table_files import TABLES, columns_of
from genlib.data.importers.zip_archive import open_zip
from genlib.data.shards.discovery import COMPRESSED
from genlib.plurals import counted
from genlib.program import command

_COMMAND = command("data")
_OPENED = 32  # pictures whose sizes are looked at
_TRIED = 500  # pictures that are opened as a conversion opens them


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
        line = f"{_COMMAND} huggingface {quote(str(path))} --out OUT --caption-column COLUMN"
        yield _line("command", f"{line}, where the images are in the files; of paths: table")
        return
    if lines := _translation(path):
        yield from lines
        return
    source, pictures = open_folder(path), pictures_below(path)
    yield _line("layout", _kind(path, source))
    yield _line("images", f"{source.total:,}")
    if words := _unusable(path, _spread(pictures, _TRIED)):
        yield _line("left out", words)
    if _side_by_side(path, pictures):
        yield _line(
            "note",
            f"all are twice as wide as high; if they are pairs side by side, as pix2pix has them: {_COMMAND} pairs {quote(str(path))} --out OUT",
        )
    yield from (_line(name, words) for name, words in source.said.items())
    yield _line("command", f"{_COMMAND} folder {quote(str(path))} --out OUT{' --repeats' if 'repeats' in source.said else ''}")


def _translation(path: Path) -> list[str]:
    """Lines on pictures in sets A and B, in pairs or without; nothing on others."""
    sides = sides_below(path)
    if not (sides["A"] and sides["B"]) or sides[""]:  # of letters as classes there are others
        return []
    counts = _line("images", f"{sides['A']:,} of A and {sides['B']:,} of B, {sides['pairs']:,} of them under equal names")
    paired = _line("command", f"{_COMMAND} pairs {quote(str(path))} --out OUT"), _line("command", f"{_COMMAND} domains {quote(str(path))} --out OUT")
    if 2 * sides["pairs"] >= min(sides["A"], sides["B"]):
        note = _line("note", "if equal names are not pairs, as in CycleGAN's own sets, take the verb domains")
        return [_line("layout", "pairs in folders A and B, as pix2pix has them"), counts, paired[0], note]
    return [_line("layout", "two sets without pairs, as CycleGAN has them"), counts, paired[1]]


def _spread(images: Sequence[str], most: int) -> Sequence[str]:
    """No more than so many of them, evenly chosen."""
    return images[:: -(-len(images) // most) or 1]


def _unusable(path: Path, images: Sequence[str]) -> str:
    """How many of these pictures a conversion would leave out, and why; empty where it takes all."""
    reasons: dict[str, list[str]] = {}
    for one in images:
        try:
            stored_image(file_bytes(path / one, LIMIT_BYTES["image"], "image"))
        except (BadSample, SkippedSample) as reason:
            reasons.setdefault(str(reason), []).append(one)
    tried = f"{sum(map(len, reasons.values())):,} of {len(images):,} that were opened"
    return f"{tried}: {'; '.join(f'{len(names):,} {reason}, first {names[0]}' for reason, names in reasons.items())}" if reasons else ""


def _side_by_side(path: Path, images: Sequence[str]) -> bool:
    """Whether pictures spread over the folder are all twice as wide as high."""
    try:
        return all(size[0] == 2 * size[1] for size in (_size(path / one) for one in _spread(images, _OPENED)))
    except OSError:
        return False


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


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
    unnamed = all(map(str.isdecimal, columns))
    yield _line(
        "layout", f"a table without header, of {counted(len(columns), 'column')}" if unnamed else f"a table with the columns {', '.join(columns)}"
    )
    try:
        found = columns_in(path, TableColumns(AUTO, AUTO, AUTO))
    except ValueError as error:
        yield _line("note", str(error))
        return
    named = (("image", found.image), ("caption", found.caption), ("label", found.label))
    options = "".join(f" --{what}-column {quote(name)}" for what, name in named if name)
    yield _line("command", f"{_COMMAND} table {quote(str(path))} --out OUT{options}")


def _zip(path: Path) -> Iterator[str]:
    source = open_zip(path)
    stylegan = " other .json" in source.said["files"]
    kind = f"StyleGAN's zip, with{'out' if source.said['labels'].startswith('none') else ''} labels" if stylegan else "a zip of images"
    yield _line("layout", kind)
    yield _line("images", f"{source.total:,}")
    yield from (_line(name, words) for name, words in source.said.items())
    yield _line("command", f"{_COMMAND} folder {quote(str(path))} --out OUT")
