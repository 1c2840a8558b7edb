"""Files with the index of a shard: beside it, or in the cache folder of the node."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from genlib.data.index.storage_path import StoragePath
from genlib.files import cache_folder, locked, write_atomically
from genlib.remote import remote_file
from genlib.remote.remote_file import ObjectChangedError, RemoteFile

_SIDECAR_BYTES = 256 << 20
"""Largest sidecar that is fetched, whatever a server sends."""


def _cache_path(path: StoragePath) -> Path:
    where = os.path.realpath(path) if isinstance(path, Path) else path.url
    return cache_folder() / "index" / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.idx"


def sidecars(path: StoragePath, *, fetch: bool = True) -> Iterator[Path]:
    """Candidates for the sidecar of a shard: beside it, and in the cache folder, into which one beside a remote shard is fetched."""
    if isinstance(path, Path):
        yield path.with_name(f"{path.name}.idx")
        yield _cache_path(path)
        return
    yield _cache_path(path)
    if fetch and (fetched := _fetched(path)):
        yield fetched


def _fetched(path: RemoteFile) -> Path | None:
    content = bytearray()
    try:
        for chunk in remote_file.stream(path.sibling(f"{path.name}.idx")):
            content += chunk
            if len(content) > _SIDECAR_BYTES:
                return None
    except (OSError, ObjectChangedError):
        return None
    _write_cached(path, bytes(content))
    return _cache_path(path)


def write_sidecar(path: StoragePath, content: bytes) -> None:
    """Beside the shard, or in the cache folder where that folder is read-only; of a remote shard in both."""
    if isinstance(path, RemoteFile):
        _write_cached(path, content)
        with suppress(OSError):  # other nodes then index the shard again
            remote_file.put(path.sibling(f"{path.name}.idx"), content)
        return
    try:
        write_atomically(path.with_name(f"{path.name}.idx"), content)
    except OSError:
        _write_cached(path, content)


def _write_cached(path: StoragePath, content: bytes) -> None:
    try:
        write_atomically(_cache_path(path), content)
    except OSError as error:
        way_out = "name a folder with room that can be written in GENLIB_CACHE"
        raise ValueError(f"the index of shard {path} cannot be kept in {cache_folder()} ({error.strerror}); {way_out}") from None


@contextmanager
def index_lock(path: StoragePath) -> Iterator[None]:
    """Held by the one process of a node that indexes the shard. Where the cache folder takes no lock, several processes may index it."""
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(locked(_cache_path(path).with_suffix(".lock")))
        yield
