"""A folder of images: with captions beside them (NAME.txt), in a metadata file, or in class folders, or neither; with masks (NAME.mask.png) or
without; with split folders at the top."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from genlib.data.importers.convert import ConversionInput, RawSample
from genlib.data.importers.image_files import IMAGES
from genlib.data.importers.labels import in_words, numbered
from genlib.data.importers.metadata import METADATA, Metadata, read_metadata
from genlib.data.split_names import split_named

CAPTIONS = (".txt", ".caption", ".text", ".captions", ".transcript")
"""Endings of captions beside images, in any case; of several the first here counts."""
FolderLabels = Literal["auto", "folders", "none"]
FolderSplits = Literal["auto", "folders", "none"]


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


@dataclass(slots=True)
class FilesFound:
    """All files below a root, by what they are."""

    images: list[str] = field(default_factory=list)
    masks: dict[str, str] = field(default_factory=dict)
    """Image to its mask."""
    captions: dict[str, str] = field(default_factory=dict)
    """Image to the file with its caption."""
    metadata: list[str] = field(default_factory=list)
    second: int = 0
    """Further files with captions of images that have one."""
    others: Counter[str] = field(default_factory=Counter)
    """By ending."""
    beside: Counter[str] = field(default_factory=Counter)
    """Of the others, those that are called like an image."""
    hidden: int = 0
    digest: str = ""

    def in_words(self) -> str:
        """The sum of all files."""
        parts = {
            "images": len(self.images),
            "masks": len(self.masks),
            "captions": len(self.captions),
            "metadata": len(self.metadata),
            "second captions": self.second,
        }
        parts |= {f"other {ending or 'without ending'}": count for ending, count in sorted(self.others.items())} | {"hidden": self.hidden}
        text = f"{sum(parts.values()):,} seen = {' + '.join(f'{count:,} {name}' for name, count in parts.items() if count)}"
        if self.beside and not self.captions and not self.metadata:
            ending = self.beside.most_common(1)[0][0]
            text += f" (if {ending} are captions, give --caption-ending {ending})"
        return text


def open_folder(
    root: Path,
    labels: FolderLabels = "auto",
    splits: FolderSplits = "auto",
    caption_ending: str = "",
    caption_column: str = "",
    repeats: bool = False,
) -> ConversionInput:
    """The images below a folder, in order of their paths. ValueError where there are none, or where its layout says two things.

    Where any image has a caption, in a file beside it or in a metadata file, or a mask, all need one. With `labels` "auto", images that lie in two or
    more folders, none of them at the top, and have no captions, get the folder's class as label, see `genlib.data.importers.labels`.
    Folders at the top that are called like splits are such where there are no others. With `repeats` a folder at the top called `10_name` is
    taken ten times, and `name` is the caption of its images that have none, as sd-scripts does.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    files = _walk(root, caption_ending)
    if not files.images:
        raise ValueError(f"{root} holds no images ({', '.join(sorted(IMAGES))}); check the path")
    split_of = _splits(root, files.images, splits)
    metadata = read_metadata(root, files.metadata, caption_column) if files.metadata else None
    captioned = bool(metadata and metadata.captioned) or bool(files.captions) or repeats
    classes = _classes(root, files.images, split_of, captioned or bool(metadata and metadata.labelled), labels)
    numbers, names = numbered(metadata.labels) if metadata and metadata.labelled and not classes else numbered(set(classes.values()))
    entries = [_entry(path, files, metadata, split_of, classes, numbers) for path in files.images]
    if metadata and (metadata.captioned or metadata.labelled):
        absent = sorted(metadata.rows.keys() - set(files.images))
        entries += [ImageEntry(path, problem=metadata.rows[path].problem or "missing image") for path in absent]
    if repeats:
        entries = [named for entry in entries for named in [_named(entry)] * _repeats(entry.path)[0]]
    read = partial(read_entries, root.absolute(), captioned, bool(metadata and metadata.captioned), bool(numbers), bool(files.masks))
    how = {"splits": splits, "caption_ending": caption_ending, "caption_column": caption_column, "repeats": repeats}
    what = f"column {metadata.label_column!r}" if metadata and metadata.labelled and not classes else "folders"
    return ConversionInput(
        read=read,
        cut=lambda size: [entries[at : at + size] for at in range(0, len(entries), size)],
        few=lambda count: read(entries[:: -(-len(entries) // count)]),
        identity={"images": len(files.images), "digest": files.digest, "labels": labels, **how},
        total=len(entries),
        facts={"name": root.absolute().name, **({"class_names": names} if names else {})},
        said={
            "captions": metadata.in_words() if metadata and metadata.captioned else _caption_words(files),
            "labels": in_words(numbers, names, what) if numbers else "none",
            "splits": ", ".join(f"{top} is {split}" for top, split in sorted(split_of.items())) or "none",
            "files": files.in_words(),
            **_repeat_words(files.images, repeats),
        },
    )


def _entry(
    path: str,
    files: FilesFound,
    metadata: Metadata | None,
    split_of: Mapping[str, str],
    classes: Mapping[str, str],
    numbers: Mapping[str, int],
) -> ImageEntry:
    split, mask = split_of.get(path.partition("/")[0], ""), files.masks.get(path, "")
    if metadata and (metadata.captioned or metadata.labelled):
        row = metadata.rows.get(path)
        if row is None:
            return ImageEntry(path, split, problem="not in the metadata file")
        caption = row.caption if metadata.captioned else files.captions.get(path)
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


def read_entries(root: Path, captioned: bool, listed: bool, labelled: bool, masked: bool, entries: Sequence[ImageEntry]) -> Iterator[RawSample]:
    """The samples of some entries; `listed`: their captions are from a metadata file."""
    for entry in entries:
        problem = entry.problem or ("missing caption" if captioned and entry.caption is None else "")
        problem = problem or ("missing mask" if masked and not entry.mask else "")
        problem = problem or ("missing label" if labelled and (entry.label is None or entry.label < 0) else "")
        caption = entry.caption if listed or not isinstance(entry.caption, str) else root / entry.caption
        if not listed and isinstance(caption, list):
            caption = caption[0]
        mask = root / entry.mask if entry.mask else None
        yield RawSample(entry.path, root / entry.path, caption if captioned else None, entry.label, entry.split, problem, mask)


def _walk(root: Path, caption_ending: str) -> FilesFound:
    """All files below a root that are not hidden, sorted by what they are, and a digest of names and sizes."""
    found: dict[str, int] = {}
    files, todo = FilesFound(), [str(root)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    files.hidden += 1
                elif entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    found[os.path.relpath(entry.path, root)] = _size(entry)
    ordered = sorted(found)
    files.images, files.masks = _apart([path for path in ordered if os.path.splitext(path)[1].lower() in IMAGES])
    named = {**{os.path.splitext(path)[0]: path for path in reversed(files.images)}, **{path: path for path in files.images}}
    endings = (f".{caption_ending.removeprefix('.').lower()}",) if caption_ending else CAPTIONS
    beside: dict[str, list[tuple[int, str]]] = {}
    for path in ordered:
        stem, ending = os.path.splitext(path)
        if ending.lower() in IMAGES:
            continue
        if os.path.basename(path) in METADATA:
            files.metadata.append(path)
        elif ending.lower() in endings and stem in named:
            beside.setdefault(stem, []).append((endings.index(ending.lower()), path))
        else:
            files.others[ending.lower()] += 1
            files.beside.update([ending.lower()] if stem in named else [])
    _take_captions(files, beside, named)
    files.digest = hashlib.sha256("\0".join(f"{path}\0{found[path]}" for path in ordered).encode("utf-8", "surrogateescape")).hexdigest()
    return files


def _take_captions(files: FilesFound, beside: Mapping[str, list[tuple[int, str]]], named: Mapping[str, str]) -> None:
    """The best caption of each image: NAME.txt, or NAME.jpg.txt; two images of one name and two endings share it."""
    stems: dict[str, str] = {}
    for stem, found in beside.items():
        stems[stem] = min(found)[1]
        files.second += len(found) - 1
    taken = {image: stems.get(os.path.splitext(image)[0]) or stems.get(image) for image in files.images}
    files.captions = {image: caption for image, caption in taken.items() if caption}
    files.second += len(set(stems.values())) - len(set(files.captions.values()))


def _caption_words(files: FilesFound) -> str:
    endings = Counter(os.path.splitext(path)[1].lower() for path in files.captions.values())
    return ", ".join(f"NAME{ending} {count:,}" for ending, count in endings.most_common()) or "none"


def _apart(images: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Pictures, and the mask of each that has one: NAME.mask.EXT is one where there is a picture NAME."""
    stems = {os.path.splitext(path)[0] for path in images}
    masks = {stem[:-5]: path for path in images if (stem := os.path.splitext(path)[0]).endswith(".mask") and stem[:-5] in stems}
    taken = set(masks.values())
    pictures = [path for path in images if path not in taken]
    return pictures, {path: masks[stem] for path in pictures if (stem := os.path.splitext(path)[0]) in masks}


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere, which is counted when it is read
        return -1


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


def _classes(root: Path, images: Sequence[str], split_of: Mapping[str, str], captioned: bool, labels: FolderLabels) -> dict[str, str]:
    """The class folder of each image; empty where there are no labels."""
    below = [path.partition("/")[2] if split_of and "/" in path else path for path in images]
    names = _tops(below)
    if labels == "none" or (labels == "auto" and (captioned or "" in names or len(names) < 2)):
        return {}
    if "" in names:
        loose = next(path for path, rest in zip(images, below, strict=True) if "/" not in rest)
        raise ValueError(f"--labels folders, but {root / loose} lies in no class folder; move it, or give --labels none")
    return {path: rest.partition("/")[0] for path, rest in zip(images, below, strict=True)}
