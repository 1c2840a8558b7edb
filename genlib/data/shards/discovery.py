"""Which shards a text names: a folder, a tar, a pattern, or a URL of these."""

from __future__ import annotations

import glob
import logging
import os
from pathlib import Path
from typing import TypeVar

from braceexpand import braceexpand

from genlib.data.index.storage_path import StoragePath
from genlib.data.remote import remote_file
from genlib.data.remote.remote_file import RemoteFile

log = logging.getLogger(__name__)
SPLITS = ("train", "validation")
P = TypeVar("P", Path, RemoteFile)


def _of_split(shards: list[P], split: str, only_split: bool) -> list[P]:
    """A folder's `SPLIT-*.tar`; where it has none, all that no other split claims."""
    own = [path for path in shards if path.name.startswith(f"{split}-")]
    if own or only_split:
        return own
    return [path for path in shards if not path.name.startswith(tuple(f"{other}-" for other in SPLITS))] or (shards if split != "train" else [])


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
    if where.endswith(".tar") or "*" in where or "{" in where:
        return [] if only_split else remote_file.expand(where)
    found = [file for file in remote_file.expand(where.rstrip("/") + "/") if file.name.endswith(".tar")]
    return _of_split(sorted(found, key=lambda file: file.url), split, only_split)


def _tars_in(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(".tar")]
    except OSError as error:
        raise ValueError(
            f"the folder {folder} cannot be listed ({error.strerror}); give this user the right to read it, or name another one"
        ) from None


def find_shards(where: str, split: str = "train", *, only_split: bool = False) -> list[StoragePath]:
    """Shards that a text names: a folder, a tar, or a pattern with braces or `*`, local or at a URL.

    A folder gives its `SPLIT-*.tar` where it has such, else all tars that no other split claims; `only_split` wants the first alone.
    """
    if remote_file.is_remote(where):
        return list(_at_url(where, split, only_split))
    path = Path(where).expanduser()
    if path.is_dir():
        return list(_of_split(_tars_in(path), split, only_split))
    if only_split:
        return []
    return [Path(name) for name in sorted(glob.glob(str(path)))] if "*" in where and "{" not in where else list(_of_pattern(str(path)))


def split_paths(where: str) -> list[str]:
    """The single paths in a text that joins several by `::`."""
    return [part for part in where.split("::") if part]


def all_shards(where: str) -> list[StoragePath]:
    """Shards of every split at paths joined by `::`. ValueError where there are none."""
    paths = [path for part in split_paths(where) for split in SPLITS for path in find_shards(part, split, only_split=split != "train")]
    if not paths:
        raise ValueError(f"{where!r}: there are no shards (.tar files); check the path, or make some with jobs/prepare_data.py")
    return list(dict.fromkeys(paths))
