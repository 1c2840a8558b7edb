"""A folder of images: with captions beside them (NAME.txt), or in class folders, or neither; with masks (NAME.mask.png) or without."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from genlib.data.importers.convert import ConversionInput, RawSample

IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".mpo", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"))
SPLITS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "validation"}
"""Folders at the top that are splits where there are no others."""
FolderLabels = Literal["auto", "folders", "none"]


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image: its path below the root, and the facts that its folder gives."""

    path: str
    split: str = ""
    label: int | None = None
    captioned: bool = False
    mask: str = ""
    """Path of its mask below the root."""


def open_folder(root: Path, labels: FolderLabels = "auto") -> ConversionInput:
    """The images below a folder, in order of their paths. ValueError where there are none, or where its layout says two things.

    Where any image has a caption or a mask beside it, all need one. With `labels` "auto", images that lie in two or more folders, none of
    them at the top, and have no captions, get the folder's number as label. Folders train and val at the top are splits.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    images, captions, others, digest = _walk(root)
    if not images:
        raise ValueError(f"{root} holds no images ({', '.join(sorted(IMAGES))}); check the path")
    images, masks = _apart(images)
    split_of = _splits(root, images)
    captioned = bool(captions)
    names = _class_names(root, images, bool(split_of), captioned, labels)
    number = {name: at for at, name in enumerate(names)}
    entries = []
    for path in images:
        parts = path.split("/")
        split = split_of[parts[0]] if split_of else ""
        label = number[parts[1 if split_of else 0]] if names else None
        stem = os.path.splitext(path)[0]
        entries.append(ImageEntry(path, split, label, stem in captions, masks.get(stem, "")))
    read = partial(read_entries, root.absolute(), captioned, bool(masks))
    return ConversionInput(
        read=read,
        cut=lambda size: [entries[at : at + size] for at in range(0, len(entries), size)],
        few=lambda count: read(entries[:: -(-len(entries) // count)]),
        identity={"images": len(images), "digest": digest, "labels": labels},
        total=len(entries),
        facts={"name": root.absolute().name, **({"class_names": names} if names else {}), **({"ignored_files": others} if others else {})},
    )


def read_entries(root: Path, captioned: bool, masked: bool, entries: Sequence[ImageEntry]) -> Iterator[RawSample]:
    """The samples of some entries."""
    for entry in entries:
        path = root / entry.path
        problem = "missing caption" if captioned and not entry.captioned else "missing mask" if masked and not entry.mask else ""
        caption = path.with_suffix(".txt") if captioned else None
        yield RawSample(entry.path, path, caption, entry.label, entry.split, problem, root / entry.mask if entry.mask else None)


def _walk(root: Path) -> tuple[list[str], set[str], int, str]:
    """Paths of images in order, those of captions without their ending, how many other files there are, and a digest of names and sizes."""
    found: dict[str, int] = {}
    todo: list[Any] = [root]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    found[os.path.relpath(entry.path, root)] = _size(entry)
    ordered = sorted(found)
    images = [path for path in ordered if os.path.splitext(path)[1].lower() in IMAGES]
    stems = {os.path.splitext(path)[0] for path in images}
    captions = {stem for stem, ending in map(os.path.splitext, ordered) if ending == ".txt" and stem in stems}
    others = len(ordered) - len(images) - len(captions)
    digest = hashlib.sha256("\0".join(f"{path}\0{found[path]}" for path in ordered).encode("utf-8", "surrogateescape")).hexdigest()
    return images, captions, others, digest


def _apart(images: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Pictures, and masks by the stem of their picture: NAME.mask.EXT is one where there is a NAME."""
    stems = {os.path.splitext(path)[0] for path in images}
    masks = {stem[:-5]: path for path in images if (stem := os.path.splitext(path)[0]).endswith(".mask") and stem[:-5] in stems}
    taken = set(masks.values())
    return [path for path in images if path not in taken], masks


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere, which is counted when it is read
        return -1


def _tops(images: Sequence[str]) -> set[str]:
    """Folders at the top that hold images; "" where some lie outside of any."""
    return {path.partition("/")[0] if "/" in path else "" for path in images}


def _splits(root: Path, images: Sequence[str]) -> dict[str, str]:
    tops = _tops(images)
    if not tops <= SPLITS.keys():
        return {}
    taken = [SPLITS[top] for top in sorted(tops)]
    if len(set(taken)) < len(taken):
        raise ValueError(
            f"{root} has the folders {', '.join(sorted(tops))}, two of which are one split; convert the ones you want from a folder of links"
        )
    return {top: SPLITS[top] for top in tops}


def _class_names(root: Path, images: Sequence[str], split: bool, captioned: bool, labels: FolderLabels) -> list[str]:
    """Folders that are classes, sorted; empty where there are no labels."""
    below = [path.partition("/")[2] for path in images] if split else images
    names = _tops(below)
    if labels == "none" or (labels == "auto" and (captioned or "" in names or len(names) < 2)):
        return []
    if "" in names:
        loose = next(path for path, rest in zip(images, below, strict=True) if "/" not in rest)
        raise ValueError(f"--labels folders, but {root / loose} lies in no class folder; move it, or give --labels none")
    return sorted(names)
