"""A zip of images, as StyleGAN's dataset_tool writes it: with labels in dataset.json, or in class folders, or without. It is read where it lies."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from genlib.data.codecs.decode import LIMIT_BYTES, BadSample
from genlib.data.importers.convert import ConversionInput, RawSample
from genlib.data.importers.folder import FolderLabels, ImageEntry, class_folders
from genlib.data.importers.folder_files import CAPTIONS, SYSTEM_FOLDERS
from genlib.data.importers.image_files import IMAGES
from genlib.data.importers.labels import in_words, label_text, numbered
from genlib.data.importers.metadata import METADATA, stylegan_labels

LABELS = "dataset.json"
_JSON_BYTES = 1 << 30
_UNREADABLE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error)
"""What `zipfile` raises of a file that is cut off, packed by other means, or has a password."""


def open_zip(path: Path, labels: FolderLabels = "auto") -> ConversionInput:
    """The images of a zip, in order of their paths. ValueError where there are none, or where it holds captions, which only a folder has.

    With a dataset.json that lists labels these are taken, with `labels` "auto" else the folders, as `folder.open_folder` takes them.
    """
    infos, above, pairs = _listing(path)
    images = sorted(name for name in infos if os.path.splitext(name)[1].lower() in IMAGES)
    others = Counter(os.path.splitext(name)[1].lower() or "without ending" for name in infos if os.path.splitext(name)[1].lower() not in IMAGES)
    if not images:
        raise ValueError(f"{path} holds no images that are read ({', '.join(sorted(IMAGES))})")
    if captioned := [name for name in infos if _is_of_captions(name, infos)]:
        way_out = f"unpack it: `unzip -q {quote(str(path))} -d {quote(path.stem)}`, and give the folder {path.stem}"
        raise ValueError(f"{path} holds captions, such as {captioned[0]}, which are read from a folder; {way_out}")
    listed = (
        {os.path.normpath(os.path.join(above, name.replace("\\", "/"))): _label(label) for name, label in pairs or ()} if labels == "auto" else {}
    )
    classes, why_none = class_folders(path, images, {}, bool(listed), labels)
    if pairs == [] and labels == "auto" and classes:
        classes, why_none = {}, f"none, as {LABELS} says"
    numbers, names = numbered({text for text, _ in listed.values() if text} or set(classes.values()))
    entries = [_entry(name, listed, classes, numbers) for name in images]
    entries += [ImageEntry(name, problem="missing image") for name in sorted(listed.keys() - set(images))]
    read = partial(read_entries, path.absolute(), bool(numbers))
    words = {"images": len(images), **{f"other {ending}": count for ending, count in sorted(others.items())}}
    return ConversionInput(
        read=read,
        cut=lambda size: [entries[at : at + size] for at in range(0, len(entries), size)],
        few=lambda count: read(entries[:: -(-len(entries) // count)]),
        identity={"images": len(images), "digest": _digest(infos), "labels": labels},
        total=len(entries),
        facts={"name": path.stem, **({"class_names": names} if names else {})},
        said={
            "labels": in_words(numbers, names, os.path.join(above, LABELS) if listed else "folders") if numbers else why_none,
            "files": f"{len(infos):,} seen = {' + '.join(f'{count:,} {name}' for name, count in words.items())}",
        },
    )


def _listing(path: Path) -> tuple[dict[str, zipfile.ZipInfo], str, list[tuple[str, Any]] | None]:
    """Files by name without hidden ones, the folder of the dataset.json that is nearest to the top, and what it lists, see `stylegan_labels`."""
    try:
        with zipfile.ZipFile(path) as file:
            infos = {info.filename: info for info in file.infolist() if not info.is_dir() and not _is_hidden(info.filename)}
            listed = min((name for name in infos if name.rpartition("/")[2] == LABELS), key=lambda name: name.count("/"), default="")
            if listed and infos[listed].file_size > _JSON_BYTES:
                raise ValueError(f"{path}: its {listed} has more than {_JSON_BYTES >> 20} MB, so it is no list of labels; take it out")
            pairs = stylegan_labels(file.read(listed), f"{path}: {listed}") if listed else None
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a zip ({error}); get it again, without a password") from None
    return infos, listed.rpartition("/")[0], pairs


def _below(folder: str, name: str) -> str:
    """The name in the zip of an image that a dataset.json in that folder lists, with backslashes on Windows."""
    return os.path.normpath(os.path.join(folder, name.replace("\\", "/")))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in name.split("/"))


def _is_of_captions(name: str, files: Collection[str]) -> bool:
    if os.path.basename(name) in METADATA and os.path.basename(name) != LABELS:
        return True
    stem, ending = os.path.splitext(name)
    return ending.lower() in CAPTIONS and any(f"{stem}{image}" in files for image in IMAGES)


def _digest(infos: Mapping[str, zipfile.ZipInfo]) -> str:
    facts = (f"{name}\0{info.file_size}\0{info.CRC}" for name, info in sorted(infos.items()))
    return hashlib.sha256("\0".join(facts).encode("utf-8", "surrogateescape")).hexdigest()


def _label(value: Any) -> tuple[str, str]:
    """A label as text, empty where it is missing; and why it is none."""
    try:
        return label_text(value), ""
    except BadSample as reason:
        return "", str(reason)


def _entry(name: str, listed: Mapping[str, tuple[str, str]], classes: Mapping[str, str], numbers: Mapping[str, int]) -> ImageEntry:
    if not listed:
        return ImageEntry(name, label=numbers.get(classes[name]) if classes else None)
    if name not in listed:
        return ImageEntry(name, problem=f"not in {LABELS}")
    text, problem = listed[name]
    return ImageEntry(name, label=numbers.get(text), problem=problem)


def read_entries(path: Path, labelled: bool, entries: Sequence[ImageEntry]) -> Iterator[RawSample]:
    """The samples of some entries."""
    try:
        file = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read any more ({error}); start again when nothing writes it") from None
    with file:
        for entry in entries:
            problem = entry.problem or ("missing label" if labelled and (entry.label is None or entry.label < 0) else "")
            data = None
            if not problem:
                try:
                    with file.open(entry.path) as member:
                        data = member.read(LIMIT_BYTES["image"] + 1)
                except (*_UNREADABLE, KeyError):
                    problem = "unreadable image"
            yield RawSample(entry.path, data, label=entry.label, problem=problem)
