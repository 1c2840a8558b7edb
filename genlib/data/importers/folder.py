"""A folder of images: with captions beside them (NAME.txt), in a metadata file, or in class folders, or neither; with masks (NAME.mask.png) or
without; with split folders at the top."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from genlib.config import nearest
from genlib.data.codecs.captions import has_caption
from genlib.data.codecs.decode import LIMIT_BYTES, BadSample, decode_json
from genlib.data.codecs.encode import SkippedSample, file_bytes
from genlib.data.importers.columns import CAPTION_COLUMNS
from genlib.data.importers.convert import ConversionInput, RawSample
from genlib.data.importers.folder_files import FilesFound, FolderMasks, is_json, walk
from genlib.data.importers.image_files import IMAGES
from genlib.data.importers.labels import in_words, numbered
from genlib.data.importers.metadata import MetadataRow, read_metadata
from genlib.data.importers.table import caption_cell
from genlib.data.split_names import split_named

FolderLabels = Literal["auto", "folders", "none"]
FolderSplits = Literal["auto", "folders", "none"]
_LOOKED_AT = 100  # files with captions in JSON, which show in which field they are


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image: its path below the root, and the facts that its folder gives."""

    path: str
    split: str = ""
    label: int | None = None
    caption: str | list[Any] | None = None
    """Path of the file with its caption below the root; with a metadata file the caption or captions themselves."""
    problem: str = ""
    mask: str = ""
    """Path of its mask below the root."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderReading:
    """How entries of a folder become samples; picklable."""

    root: Path
    captioned: bool
    listed: bool
    """Whether captions are from a metadata file."""
    labelled: bool
    masked: bool
    json: JsonCaptions | None


@dataclass(frozen=True, slots=True)
class JsonCaptions:
    """Captions in the .json beside images: their field, and whether any of those looked at is a list."""

    field: str
    lists: bool


def open_folder(
    root: Path,
    labels: FolderLabels = "auto",
    splits: FolderSplits = "auto",
    caption_ending: str = "",
    caption_column: str = "",
    repeats: bool = False,
    masks: FolderMasks = "auto",
) -> ConversionInput:
    """The images below a folder, in order of their paths. ValueError where there are none, or where its layout says two things.

    Where any image has a caption, in a file beside it or in a metadata file, or a mask, all need one. With `labels` "auto", images that lie in two or
    more folders, none of them at the top, and have no captions, get the folder's class as label, see `genlib.data.importers.labels`.
    Folders at the top that are called like splits are such where there are no others. With `repeats` a folder at the top called `10_name` is
    taken ten times, and `name` is the caption of its images that have none, as sd-scripts does.
    """
    files = _files(root, caption_ending, masks)
    metadata = read_metadata(root, files.metadata, caption_column) if files.metadata else None
    if metadata and metadata.masked and masks == "auto":
        files.take_masks({path: row.mask for path, row in metadata.rows.items() if row.mask}, f"column {metadata.mask_column!r}")
    split_of, by_metadata = _splits(root, files.images, splits), bool(metadata and metadata.captioned)
    json = None if files.captions or by_metadata else _json_captions(root, files, caption_ending, caption_column)
    captioned = by_metadata or bool(files.captions) or repeats
    listed = bool(metadata and metadata.labelled and labels != "none")
    classes, why_none = class_folders(root, files.images, split_of, captioned or listed, labels)
    if metadata and metadata.says_no_labels and labels == "auto" and classes:
        classes, why_none = {}, f"none, as {metadata.says_no_labels} says"
    if not repeats and labels == "auto" and classes:
        _check_repeats(root, files.images)
    numbers, names = numbered(metadata.labels) if metadata and listed and not classes else numbered(set(classes.values()))
    rows = metadata.rows if metadata and (metadata.captioned or (listed and not classes)) else None
    entries = [_entry(path, files, rows, by_metadata, split_of, classes, numbers) for path in files.images]
    if rows:
        entries += [ImageEntry(path, problem=rows[path].problem or "missing image") for path in sorted(rows.keys() - set(files.images))]
    if repeats:
        entries = [named for entry in entries for named in [_named(entry)] * _repeats(entry.path)[0]]
    reading = FolderReading(
        root=root.absolute(), captioned=captioned, listed=by_metadata, labelled=bool(numbers), masked=bool(files.masks), json=json,
    )  # fmt: skip
    read = partial(read_entries, reading)
    how = {"splits": splits, "caption_ending": caption_ending, "caption_column": caption_column, "repeats": repeats}
    how |= {} if masks == "auto" else {"masks": masks}
    what = f"column {metadata.label_column!r}" if metadata and listed and not classes else "folders"
    return ConversionInput(
        read=read,
        cut=lambda size: [entries[at : at + size] for at in range(0, len(entries), size)],
        few=lambda count: read(entries[:: -(-len(entries) // count)]),
        identity={"images": len(files.images), "digest": files.digest, "labels": labels, **how},
        total=len(entries),
        facts={"name": root.absolute().name, **({"class_names": names} if names else {})},
        said={
            "captions": metadata.in_words() if metadata and by_metadata else f"{_caption_words(files, json)}{files.hint(root)}",
            "labels": in_words(numbers, names, what) if numbers else why_none,
            "splits": ", ".join(f"{top} is {split}" for top, split in sorted(split_of.items())) or "none",
            **({"masks": files.mask_words} if files.masks else {}),
            "files": files.in_words(),
            **_repeat_words(files.images, repeats),
        },
    )


def _files(root: Path, caption_ending: str, masks: FolderMasks) -> FilesFound:
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    files = walk(root, caption_ending, masks)
    if not files.images:
        others = ", ".join(f"{count:,} {ending}" for ending, count in files.others.most_common(3))
        way_out = f"; of the {others}, convert what are images first" if others else "; check the path"
        raise ValueError(f"{root} holds no images that are read ({', '.join(sorted(IMAGES))}){way_out}")
    return files


def _json_captions(root: Path, files: FilesFound, caption_ending: str, asked: str) -> JsonCaptions | None:
    """The field of the .json beside images that holds captions, of which `files` then takes note. ValueError where the one asked for does not."""
    if not files.json or (caption_ending and not is_json(caption_ending)):
        return None
    values = []
    for path in list(files.json.values())[:_LOOKED_AT]:
        with suppress(BadSample, SkippedSample):
            values.append(decode_json(file_bytes(root / path, LIMIT_BYTES["json"], "caption")))
    fields = dict.fromkeys(name for value in values for name, one in value.items() if has_caption(one))
    field = next((name for name in ([asked] if asked else CAPTION_COLUMNS) if name in fields), "")
    if not field and (asked or caption_ending):
        known = f"there are {', '.join(fields)}" if fields else "they have no texts"
        which = f"the field {asked!r}" if asked else f"a field called {', '.join(CAPTION_COLUMNS)}"
        raise ValueError(f"{root}: no .json beside an image has a caption in {which}.{nearest(asked, list(fields))} Give --caption-column; {known}")
    if not field:
        return None
    files.take_json()
    return JsonCaptions(field, any(isinstance(value.get(field), list) for value in values))


def _entry(
    path: str,
    files: FilesFound,
    rows: Mapping[str, MetadataRow] | None,
    by_metadata: bool,
    split_of: Mapping[str, str],
    classes: Mapping[str, str],
    numbers: Mapping[str, int],
) -> ImageEntry:
    split, mask = split_of.get(path.partition("/")[0], ""), files.masks.get(path, "")
    if rows is not None:
        row = rows.get(path)
        if row is None:
            return ImageEntry(path, split, problem="not in the metadata file")
        caption = row.caption if by_metadata else files.captions.get(path)
        return ImageEntry(path, split, numbers.get(classes[path] if classes else row.label), caption, row.problem, mask)
    return ImageEntry(path, split, numbers.get(classes[path]) if classes else None, files.captions.get(path), mask=mask)


def _repeats(path: str) -> tuple[int, str]:
    """How often the images of a folder `10_name` at the top are taken, and the name; once, without a name, where it is called otherwise."""
    found = re.fullmatch(r"(\d{1,4})_(.+)", path.partition("/")[0]) if "/" in path else None
    return (max(1, int(found[1])), found[2]) if found else (1, "")


def _named(entry: ImageEntry) -> ImageEntry:
    """The entry with its folder's name as caption, in a list, where it has none."""
    name = _repeats(entry.path)[1]
    return replace(entry, caption=[name]) if name and entry.caption is None and not entry.problem else entry


def _repeat_words(images: Sequence[str], repeats: bool) -> dict[str, str]:
    tops = sorted({path.partition("/")[0] for path in images if _repeats(path)[1]})
    if not tops:
        return {}
    first = f"{tops[0]} {_repeats(f'{tops[0]}/')[0]:,} times"
    told = f"as folders say, {first}" if repeats else f"none; --repeats takes {first}, as sd-scripts does"
    return {"repeats": told}


def read_entries(reading: FolderReading, entries: Sequence[ImageEntry]) -> Iterator[RawSample]:
    """The samples of some entries."""
    for entry in entries:
        problem = entry.problem or ("missing caption" if reading.captioned and entry.caption is None else "")
        problem = problem or ("missing mask" if reading.masked and not entry.mask else "")
        problem = problem or ("missing label" if reading.labelled and (entry.label is None or entry.label < 0) else "")
        caption: Any = entry.caption
        if not reading.listed and isinstance(caption, list):
            caption = caption[0]  # the name of a folder with repeats
        elif not reading.listed and isinstance(caption, str):
            caption = reading.root / caption
            if reading.json and not problem:
                caption, problem = _json_caption(caption, reading.json)
        mask = reading.root / entry.mask if entry.mask else None
        yield RawSample(entry.path, reading.root / entry.path, caption if reading.captioned else None, entry.label, entry.split, problem, mask)


def _json_caption(path: Path, captions: JsonCaptions) -> tuple[str | list[Any] | None, str]:
    """The caption or captions of a .json beside an image, or why it has none."""
    try:
        found = caption_cell(decode_json(file_bytes(path, LIMIT_BYTES["json"], "caption")).get(captions.field))
    except (BadSample, SkippedSample) as reason:
        return None, str(reason)
    return ([found] if captions.lists and isinstance(found, str) else found), "" if found else "missing caption"


def _caption_words(files: FilesFound, json: JsonCaptions | None) -> str:
    endings = Counter(os.path.splitext(path)[1].lower() for path in files.captions.values())
    found = ", ".join(f"NAME{ending} {count:,}" for ending, count in endings.most_common()) or "none"
    return f"{found}, the field {json.field!r}" if json else found


def _tops(images: Sequence[str]) -> set[str]:
    """Folders at the top that hold images; "" where some lie outside of any."""
    return {path.partition("/")[0] if "/" in path else "" for path in images}


def _splits(root: Path, images: Sequence[str], splits: FolderSplits) -> dict[str, str]:
    """The split of each folder at the top that is one. ValueError where it could be a class as well."""
    tops = _tops(images)
    found = {top: split for top in sorted(tops) if (split := split_named(top))}
    others = sorted(tops - found.keys())
    if splits == "none" or not found:
        return {}
    if others and splits == "auto":
        named, other = ", ".join(found), others[0] or "images outside of any folder"
        raise ValueError(
            f"{root}: are {named} splits or classes, with {other} beside them? Give --splits folders (the rest is trained on) or --splits none"
        )
    return {**dict.fromkeys(others, "train"), **found}


def class_folders(
    root: Path, images: Sequence[str], split_of: Mapping[str, str], otherwise: bool, labels: FolderLabels
) -> tuple[dict[str, str], str]:  # fmt: skip
    """The class folder of each image; or none, and why there are no labels. `otherwise`: the images have captions, or labels from elsewhere."""
    below = [path.partition("/")[2] if split_of and "/" in path else path for path in images]
    names = _tops(below)
    if labels == "none" or (labels == "auto" and (otherwise or len(names) < 2)):
        return {}, "none"
    if "" in names:
        loose = next(path for path, rest in zip(images, below, strict=True) if "/" not in rest)
        if labels == "auto":
            return {}, f"none, as {loose} lies in no class folder"
        raise ValueError(f"--labels folders, but {root / loose} lies in no class folder; move it, or give --labels none")
    classes = {path: rest.partition("/")[0] for path, rest in zip(images, below, strict=True)}
    if labels == "auto" and _are_pieces(classes):
        return {}, f"none, as folders like {min(names)} are numbered pieces of one set; --labels folders takes them for classes"
    return classes, "none"


def _are_pieces(classes: Mapping[str, str]) -> bool:
    """Whether folders are pieces of a set that is numbered throughout, 00000/img00000000.png, as StyleGAN, FFHQ and img2dataset write them."""
    spans: dict[str, list[int]] = {}
    for path, folder in classes.items():
        digits = re.findall(r"\d+", os.path.splitext(os.path.basename(path))[0])
        if not re.fullmatch(r"\d{4,}", folder) or not digits:
            return False
        spans.setdefault(folder, []).append(int(digits[-1]))
    ends = [(min(numbers), max(numbers)) for _, numbers in sorted(spans.items())]
    return len({len(folder) for folder in spans}) == 1 and all(one[1] < following[0] for one, following in pairwise(ends))


def _check_repeats(root: Path, images: Sequence[str]) -> None:
    """ValueError where the folders at the top hold folders with repeats, img/10_cat, as kohya_ss makes them: the set is one of them."""
    inside = [path.partition("/")[2] for path in images]
    if all(_repeats(path)[1] for path in inside):
        top, _, rest = images[0].partition("/")
        folder = rest.partition("/")[0]
        way_out = f"give it alone, `folder {quote(str(root / top))} --repeats`, or --labels none"
        raise ValueError(f"{root}: {top} holds folders with repeats such as {folder}; {way_out}")
