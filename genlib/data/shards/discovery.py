"""Which shards a text names: a folder, a tar, a pattern, or a URL of these."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from braceexpand import braceexpand

from genlib.data.index.storage_path import StoragePath
from genlib.data.split_names import HELD_OUT, split_of_path
from genlib.plurals import counted
from genlib.remote import remote_file
from genlib.remote.remote_file import RemoteFile

log = logging.getLogger(__name__)
SPLITS = ("train", "validation")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
P = TypeVar("P", Path, RemoteFile)


def _below(folder: str, shards: Sequence[P]) -> list[tuple[str, P]]:
    """Each shard with its path below a folder, which alone says its split."""
    begin = folder.rstrip("/") + "/"
    return [((path.url if isinstance(path, RemoteFile) else path.as_posix()).removeprefix(begin), path) for path in shards]


def _of_split(folder: str, shards: list[P], split: str, only_split: bool) -> list[P]:
    """The shards that a split's name is in; where none is, those without any split's name. For held-out samples test where there is no validation."""
    splits = {path: split_of_path(name) for name, path in _below(folder, shards)}
    wanted = [split] if split == "train" else list(HELD_OUT)
    for name in wanted:
        if own := [path for path in shards if splits[path] == name]:
            return own
    if only_split:
        return []
    unnamed = [path for path in shards if not splits[path]]
    if split == "train" and shards and not unnamed:
        example = shards[0].name
        raise ValueError(f"{folder} holds held-out shards alone, such as {example}; to train on them name them: '{folder.rstrip('/')}/*.tar'")
    return unnamed or (shards if split != "train" else [])


def _mixed(folder: str, shards: Sequence[P]) -> bool:
    """Whether some shards are called like held-out ones, and others are not."""
    held_out = [split_of_path(name) in HELD_OUT for name, _ in _below(folder, shards)]
    return any(held_out) and not all(held_out)


def _of_pattern(pattern: str) -> list[Path]:
    try:
        named = [Path(name) for name in braceexpand(pattern)]
    except ValueError:
        raise ValueError(f"shards {pattern!r}: a brace is not closed; write for example 'dir/{{00000..00099}}.tar'") from None
    paths = [path for path in named if path.exists()]  # what is no regular file is refused where it is opened
    if paths and len(paths) < len(named):
        there = set(paths)
        absent = [path for path in named if path not in there]
        log.warning("%d of the %d shards of %s do not exist, the first is %s", len(absent), len(named), pattern, absent[0])
    return paths


def _at_url(where: str, split: str, only_split: bool) -> list[RemoteFile]:
    """Shards at a URL: a folder of a store that can be listed, or a pattern."""
    if _names_files(where):
        found = remote_file.expand(where)
        fixed = where.partition("*")[0].rpartition("/")[0]
        return _of_split(fixed, found, split, only_split) if "*" in where and _mixed(fixed, found) else [] if only_split else found
    return _of_split(where, _tars_at(where), split, only_split)


def _names_files(url: str) -> bool:
    """Whether a URL is that of a file or a pattern, and not of a folder."""
    return RemoteFile(url).name.endswith((".tar", *COMPRESSED)) or "*" in url or "{" in url


def _tars_at(url: str) -> list[RemoteFile]:
    """As `_tars_in`, of a folder of a store."""
    listed = remote_file.expand(url.rstrip("/") + "/")
    if not any(file.name.endswith(".tar") for file in listed):
        listed = remote_file.tree(url)
    found = sorted((file for file in listed if file.name.endswith(".tar")), key=lambda file: file.url)
    _check_compressed(url, found, [name for name, _ in _below(url, listed)])
    return found


def _check_compressed(folder: object, shards: Sequence[object], names: Sequence[str]) -> None:
    """ValueError where a folder holds compressed shards alone; a warning where it holds some."""
    packed = [name for name in names if name.endswith(COMPRESSED)]
    if not packed:
        return
    way_out = f"compressed shards cannot be read in any order: unpack them first, for example `gunzip {packed[0]}`"
    if packed[0].endswith(".tgz"):
        way_out = f"compressed shards cannot be read in any order: unpack them first, for example `gunzip --suffix .tgz {packed[0]}`"
    if not shards:
        raise ValueError(f"{folder} holds {counted(len(packed), 'compressed shard')}, such as {packed[0]}; {way_out}")
    log.warning("%s holds %s beside the others, left out, such as %s; %s", folder, counted(len(packed), "compressed shard"), packed[0], way_out)


def _tars_in(folder: Path) -> list[Path]:
    """Tars of a folder; where it has none, those of the folders in it."""
    try:
        names = sorted(os.listdir(folder))
        found = [folder / name for name in names if name.endswith(".tar")]
        if not found:
            names = sorted(os.path.relpath(os.path.join(where, name), folder) for where, _, some in os.walk(folder) for name in some)
            names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
            found = [folder / name for name in names if name.endswith(".tar")]
        _check_compressed(folder, found, names)
        return found
    except OSError as error:
        raise ValueError(
            f"the folder {folder} cannot be listed ({error.strerror}); give this user the right to read it, or name another one"
        ) from None


def find_shards(where: str, split: str = "train", *, only_split: bool = False) -> list[StoragePath]:
    """Shards that a text names: a folder, a tar, or a pattern with braces or `*`, local or at a URL.

    Of a folder the shards count that have the split in their name or in that of a folder in it (`genlib.data.split_names`), or else those without
    any split's name; `only_split` wants the first alone. The same holds for a pattern with `*` that takes in both kinds.
    """
    if remote_file.is_remote(where):
        return list(_at_url(where, split, only_split))
    path = Path(where).expanduser()
    if path.is_dir():
        return list(_of_split(path.as_posix(), _tars_in(path), split, only_split))
    if "*" in where and "{" not in where:
        found, fixed = [Path(name) for name in sorted(glob.glob(str(path)))], path.as_posix().partition("*")[0].rpartition("/")[0]
        return list(_of_split(fixed, found, split, only_split) if _mixed(fixed, found) else [] if only_split else found)
    return [] if only_split else list(_of_pattern(str(path)))


def split_paths(where: str) -> list[str]:
    """The single paths in a text that joins several by `::`."""
    return [part for part in where.split("::") if part]


def all_shards(where: str) -> list[StoragePath]:
    """Shards of every split at paths joined by `::`. ValueError where there are none."""
    paths: list[StoragePath] = []
    for part in split_paths(where):
        if remote_file.is_remote(part):
            found = remote_file.expand(part) if _names_files(part) else _tars_at(part)
            paths += [file for file in found if file.name.endswith(".tar")]
        elif (path := Path(part).expanduser()).is_dir():
            paths += _tars_in(path)
        else:
            paths += map(Path, sorted(glob.glob(str(path)))) if "*" in part and "{" not in part else _of_pattern(str(path))
    if not paths:
        raise ValueError(f"{where!r}: there are no shards (.tar files); check the path, or make some with `python jobs/prepare_data.py`")
    return list(dict.fromkeys(paths))
