"""All files below a folder, by what they are: pictures, masks of them, captions beside them, metadata, and what is none of these."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Literal

from genlib.data.importers.image_files import IMAGES
from genlib.data.importers.metadata import METADATA
from genlib.data.importers.table_files import TABLES

CAPTIONS = (".txt", ".caption", ".text", ".captions", ".transcript")
"""Endings of captions beside images, in any case; of several the first here counts."""
FolderMasks = Literal["auto", "none"]
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")
"""Folders of previews and of what macOS knows of files, beside these."""
_MASK_NAME = re.compile(r"(.+?)(\.mask|_mask|-masklabel)", re.IGNORECASE)
_MASK_FOLDERS = ("mask", "masks", "segmentation", "segmentations", "segmentationclass", "annotations", "trimaps")
_IMAGE_FOLDERS = ("image", "images", "img", "imgs", "jpegimages")


@dataclass(slots=True)
class FilesFound:
    """All files below a root, by what they are."""

    images: list[str] = field(default_factory=list)
    masks: dict[str, str] = field(default_factory=dict)
    """Image to its mask."""
    mask_words: str = ""
    """How masks are told from images."""
    captions: dict[str, str] = field(default_factory=dict)
    """Image to the file with its caption."""
    json: dict[str, str] = field(default_factory=dict)
    """Image to the .json that is called like it."""
    metadata: list[str] = field(default_factory=list)
    second: int = 0
    """Further files with captions of images that have one."""
    others: Counter[str] = field(default_factory=Counter)
    """By ending."""
    beside: Counter[str] = field(default_factory=Counter)
    """Of the others, those that are called like an image."""
    tables: list[str] = field(default_factory=list)
    """Of the others, tables that are not called like an image."""
    hidden: int = 0
    digest: str = ""

    def in_words(self) -> str:
        """The sum of all files."""
        parts = {
            "images": len(self.images),
            "masks": len(set(self.masks.values())),
            "captions": len(set(self.captions.values())),
            "metadata": len(self.metadata),
            "second captions": self.second,
        }
        parts |= {f"other {ending or 'without ending'}": count for ending, count in sorted(self.others.items())} | {"hidden": self.hidden}
        return f"{sum(parts.values()):,} seen = {' + '.join(f'{count:,} {name}' for name, count in parts.items() if count)}"

    def hint(self, root: Path) -> str:
        """Where captions may be, of a folder that has none: files beside the images, or a table."""
        if self.captions or self.metadata:
            return ""
        if beside := [ending for ending, _ in self.beside.most_common() if ending not in (".json", ".npz", ".npy")]:
            return f" (if {beside[0]} are captions, give --caption-ending {beside[0]})"
        if not self.tables:
            return ""
        return f" (if {self.tables[0]} has them, read it: `prepare_data.py table {quote(str(root / self.tables[0]))} --image-column ...`)"

    def take_masks(self, masks: Mapping[str, str], words: str) -> None:
        """Takes files for masks of images, and no longer for images."""
        taken = set(masks.values())
        self.images = [path for path in self.images if path not in taken]
        self.masks, self.mask_words = dict(masks), words

    def take_json(self) -> None:
        """Takes the .json beside images for their captions."""
        self.captions = dict(self.json)
        self.others.subtract({".json": len(set(self.json.values()))})
        self.others = +self.others


def is_json(caption_ending: str) -> bool:
    """Whether captions are asked for in JSON, where they are a field."""
    return caption_ending.lower() in ("json", ".json")


def walk(root: Path, caption_ending: str, masks: FolderMasks = "auto") -> FilesFound:
    """All files below a root that are not hidden, sorted by what they are, and a digest of names and sizes."""
    found: dict[str, int] = {}
    files, todo = FilesFound(), [str(root)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                    files.hidden += 1
                elif entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    found[os.path.relpath(entry.path, root)] = _size(entry)
    ordered = sorted(found)
    files.images = [path for path in ordered if os.path.splitext(path)[1].lower() in IMAGES]
    if masks == "auto":
        files.take_masks(*_masks(files.images))
    named = {**{os.path.splitext(path)[0]: path for path in reversed(files.images)}, **{path: path for path in files.images}}
    endings = CAPTIONS if not caption_ending else () if is_json(caption_ending) else (f".{caption_ending.removeprefix('.').lower()}",)
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
            _take_other(files, path, named)
    _take_captions(files, beside, named)
    files.digest = hashlib.sha256("\0".join(f"{path}\0{found[path]}" for path in ordered).encode("utf-8", "surrogateescape")).hexdigest()
    return files


def _take_other(files: FilesFound, path: str, named: Mapping[str, str]) -> None:
    stem, ending = os.path.splitext(path)
    files.others[ending.lower()] += 1
    if stem in named:
        files.beside[ending.lower()] += 1
        if ending.lower() == ".json":
            files.json[named[stem]] = path
    elif ending.lower() in TABLES and ending.lower() != ".json":
        files.tables.append(path)


def _take_captions(files: FilesFound, beside: Mapping[str, list[tuple[int, str]]], named: Mapping[str, str]) -> None:
    """The best caption of each image: NAME.txt, or NAME.jpg.txt; two images of one name and two endings share it."""
    stems: dict[str, str] = {}
    for stem, found in beside.items():
        stems[stem] = min(found)[1]
        files.second += len(found) - 1
    taken = {image: stems.get(os.path.splitext(image)[0]) or stems.get(image) for image in files.images}
    files.captions = {image: caption for image, caption in taken.items() if caption}
    files.second += len(set(stems.values())) - len(set(files.captions.values()))


def _masks(images: Sequence[str]) -> tuple[dict[str, str], str]:
    """The mask of each image that has one, and how they are told.

    NAME.mask.EXT is one where there is a picture NAME. So are NAME_mask, NAME-masklabel and those of a folder of masks beside the folder of
    pictures, or in it, where at least half of the pictures have one: else they may be pictures.
    """
    pictures: dict[str, list[str]] = {}
    for path in images:
        if not _is_mask(path):
            pictures.setdefault(_key(path), []).append(path)
    for sure in (False, True):
        pairs = {picture: path for path in images if _is_mask(path, sure) for picture in pictures.get(_key(path, mask=True), ())}
        if pairs and (sure or 2 * len(pairs) >= sum(map(len, pictures.values()))):
            words = ", ".join(f"{how} {count:,}" for how, count in Counter(_is_mask(path) for path in pairs.values()).most_common())
            return pairs, words if sure else f"{words}; --masks none takes them as images"
    return {}, ""


def _is_mask(path: str, sure: bool = False) -> str:
    """How a path says that it is a mask's, in words; empty where it does not. `sure` is .mask alone."""
    named = _MASK_NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
    if named and (not sure or named[2].lower() == ".mask"):
        return f"NAME{named[2]}"
    folder = next((part for part in path.split("/")[:-1] if part.lower() in _MASK_FOLDERS), "")
    return f"folder {folder}" if folder and not sure else ""


def _key(path: str, mask: bool = False) -> str:
    """What a picture's path and its mask's have in common."""
    *folders, name = os.path.splitext(path)[0].split("/")
    named = _MASK_NAME.fullmatch(name) if mask else None
    apart = (*_IMAGE_FOLDERS, *(_MASK_FOLDERS if mask else ()))
    return "/".join([*(part for part in folders if part.lower() not in apart), named[1] if named else name])


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere, which is counted when it is read
        return -1
