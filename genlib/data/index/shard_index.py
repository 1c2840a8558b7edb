"""The index of a shard: where each sample's members lie, which samples are usable, and a digest that is the data's identity.

One sidecar a shard, `NAME.tar.idx`, in safetensors form (plain arrays, no pickle), beside the shard or in the cache folder where
that folder is read-only (see `sidecar_files`). A sample that is no good gets no number and is counted by its reason, so the
number of samples and their order are fixed before training.

A sidecar is trusted in two steps:

* When a set is opened: the sidecar is whole and valid (see `validation`), and the shard's size and tag are those that
  were indexed: the time of its last modification, at a URL the ETag. Anyone may set the time of modification, so the time of the last change
  (ctime), which no program can set, is compared too. Where that alone differs, as after a copy, a
  chmod or a rename, the content decides: the shard is read once and its digest compared, and the new time is noted. Otherwise the
  index is made again. A shard that is no regular file is refused.
* When a sample is read: each member has a CRC-32 here, and a member whose bytes have another one, or end before it does, fails as
  "changed since it was indexed", whatever the times say. A shard that changes under a run costs its samples, which are counted, and
  never goes into the weights as something else.

Files are read and never mapped: a shard that is cut while it is read gives fewer bytes, where a mapped one would end the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genlib.data.index import sidecar_files, storage_path, validation
from genlib.data.index.builder import build_arrays, digest_of, printable_key
from genlib.data.index.content import FileChangedError, FileContent
from genlib.data.index.storage_path import StoragePath
from genlib.data.index.validation import ARRAYS, INDEX_VERSION, LIMIT_SIDECAR_BYTES

IndexData = tuple[dict[str, Any], dict[str, np.ndarray]]
"""Facts of a shard (`ShardIndex.meta`) and the arrays of its index."""


@dataclass(slots=True)
class ShardIndex:
    """Index of one shard of n rows and F fields: a row is a sample whose members are sound, though one may be missing."""

    path: StoragePath
    meta: dict[str, Any]
    """version, size, tag, changed (when, of a local file), digest, fields (name, kind), masks (pairs of present fields' bits and number
    of rows), bad, first, numbers (names), highest_label, sizes (the first two), channels, joined (members behind the first end of the
    archive, and where in bytes that is), members (files and links seen), unused (members in no row, by reason), endings (frequent ones
    that are not read), texts (names of JSON fields with captions), lists (those of them that are lists)."""
    spans: np.ndarray
    """(n, F, 2) int64: offset and size in bytes of each member; -1 where the sample has none."""
    sums: np.ndarray
    """(n, F) uint32: CRC-32 of each member's bytes; 0 where the sample has none."""
    masks: np.ndarray
    """(n,) uint32: bit f is set where field f is present; see `SUSPECT`."""
    pixels: np.ndarray
    """(n, 2) int32: height and width of the field `image`, upright."""
    numbers: np.ndarray
    """(n, K) float64: numbers of the JSON member by name, and the label; nan where a sample has none."""
    texts: np.ndarray
    """(n,) uint32: bit k is set where the JSON member has a caption in the field `texts[k]`."""
    key_ends: np.ndarray
    key_bytes: np.ndarray

    @property
    def fields(self) -> dict[str, int]:
        """Column of each field."""
        return {name: column for column, (name, _) in enumerate(self.meta["fields"])}

    @property
    def num_bytes(self) -> int:
        """Memory that the arrays take."""
        return sum(getattr(self, name).nbytes for name in ARRAYS)

    def key(self, row: int) -> str:
        """A sample's name inside its shard."""
        start = int(self.key_ends[row - 1]) if row else 0
        return printable_key(self.key_bytes[start : int(self.key_ends[row])].tobytes())


def _identity(path: StoragePath) -> dict[str, Any]:
    """What a sidecar must say to be true of the shard as it is."""
    version = storage_path.stat(path)
    return {"version": INDEX_VERSION, "size": version.size, "tag": version.tag, "changed": version.changed}


def build(path: StoragePath, identity: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Indexes a shard, writes the sidecar and returns its facts (`ShardIndex.meta`)."""
    identity = identity or _identity(path)
    with storage_path.open_content(path) as data:
        data.check_unchanged(identity["size"])
        _check_plain(path, data)
        meta, arrays = build_arrays(data, dict(identity))
        data.check_unchanged(identity["size"])
    _keep(path, meta, arrays)
    return meta


_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip -c"),
    b"BZh": ("bzip2", "bunzip2 -c"),
    b"\xfd7zXZ": ("xz", "xz -dc"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc"),
}


def _check_plain(path: StoragePath, data: FileContent) -> None:
    """ValueError where the shard is a compressed tar, whose samples cannot be read in any order."""
    start = data[0:6]
    for magic, (name, command) in _COMPRESSED.items():
        if start.startswith(magic):
            plain = path.name.removesuffix(".gz").replace(".tgz", ".tar")
            raise ValueError(f"shard {path} is compressed by {name}; unpack it: `{command} {path.name} > unpacked/{plain}`")


def _keep(path: StoragePath, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    content = validation.packed(meta, arrays)
    if len(content) > LIMIT_SIDECAR_BYTES:
        raise ValueError(f"shard {path} has {len(arrays['masks']):,} samples, too many for one index; write it as several shards")
    sidecar_files.write_sidecar(path, content)


def _first(sidecars: Iterable[Path], wanted: Mapping[str, Any]) -> IndexData | None:
    """The first valid sidecar that says what is wanted."""
    return next((found for path in sidecars if (found := validation.read(path, wanted))), None)


def _found(path: StoragePath) -> IndexData:
    """The sidecar that is true of the shard as it is; made where there is none, once however many processes of a node ask."""
    identity = _identity(path)
    found = _first(sidecar_files.sidecars(path), identity)
    if found is None:
        with sidecar_files.index_lock(path):
            # whoever held the lock before may have made it
            found = _first(sidecar_files.sidecars(path, fetch=False), identity) or _confirmed(path, identity)
            if found is None:
                build(path, identity)
                found = _first(sidecar_files.sidecars(path, fetch=False), identity)
    # an index was made and is not true of the shard: its bytes changed meanwhile
    if found is None:
        raise FileChangedError(f"shard {path}")
    return found


def _confirmed(path: StoragePath, identity: dict[str, Any], touched: tuple[str, ...] = ("changed",)) -> IndexData | None:
    """The sidecar of a local shard whose facts `touched` differ and which has the content that was indexed, with the new facts; None without one."""
    if not isinstance(path, Path):
        return None
    found = _first(sidecar_files.sidecars(path), {name: value for name, value in identity.items() if name not in touched})
    if found is None:
        return None
    with storage_path.open_content(path) as data:
        same = digest_of(data, found[0]["joined"][0] > 0) == found[0]["digest"]
        data.check_unchanged(identity["size"])
    if not same:
        return None
    found[0].update({name: identity[name] for name in touched})
    _keep(path, *found)
    return found


def facts(path: StoragePath) -> dict[str, Any]:
    """Facts of a shard (`ShardIndex.meta`), from its sidecar or by indexing it now."""
    return _found(path)[0]


def as_indexed(path: Path) -> ShardIndex | None:
    """The index of a local shard that holds the very bytes that were indexed, whatever its times say; None where it does not, or has no index."""
    try:
        identity = _identity(path)
        found = _first(sidecar_files.sidecars(path), identity) or _confirmed(path, identity, ("tag", "changed"))
    except (OSError, ValueError):
        return None
    return None if found is None else ShardIndex(path=path, meta=found[0], **found[1])


def load(path: StoragePath, digest: str = "") -> ShardIndex:
    """The whole index of a shard.

    With a digest, a sidecar whose digest begins with it is taken without a look at the shard: a shard that changed since then fails
    member by member when it is read, by the checksums.
    """
    known = (validation.read(path, {"version": INDEX_VERSION}) for path in sidecar_files.sidecars(path)) if digest else ()
    meta, arrays = next((found for found in known if found and found[0]["digest"].startswith(digest)), None) or _found(path)
    return ShardIndex(path=path, meta=meta, **arrays)
