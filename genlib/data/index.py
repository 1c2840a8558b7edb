"""The index of a shard: where each sample's members lie, which samples are usable, and a digest that is the data's identity.

One sidecar a shard, `NAME.tar.idx`, in safetensors form (plain arrays, no pickle), beside the shard or in the cache folder where
that place is read-only. It is made again when the shard's size or modification time changed. A sample that is no good gets no
number and is counted by its reason, so the number of samples and their order are fixed before training.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from genlib.data import tar
from genlib.data.decode import CHECKS, KINDS, LIMIT_BYTES, BadSample, ImageHeader
from genlib.data.files import cache_folder, write_atomically

INDEX_VERSION = 1
SUSPECT = 1 << 31
"""Bit of a row beside damage: if it is incomplete, the damage is the reason and is counted already."""
_MAX_FIELDS = 16
_FIELD = re.compile(r"[a-z0-9_]{1,32}")


@dataclass(slots=True)
class Shard:
    """Index of one shard of n rows and F fields: a row is a sample whose members are sound, though one may be missing."""

    path: Path
    meta: dict[str, Any]
    """version, size, mtime_ns, digest, fields (name, kind), masks (pairs of present fields' bits and number of rows), bad, first,
    highest_label, sizes (the first two), channels."""
    spans: np.ndarray
    """(n, F, 2) int64: offset and size in bytes of each member; -1 where the sample has none."""
    masks: np.ndarray
    """(n,) uint32: bit f is set where field f is present; see `SUSPECT`."""
    pixels: np.ndarray
    """(n, 2) int32: height and width of the field `image`."""
    key_ends: np.ndarray
    key_bytes: np.ndarray

    @property
    def fields(self) -> dict[str, int]:
        """Column of each field."""
        return {name: column for column, (name, _) in enumerate(self.meta["fields"])}

    @property
    def num_bytes(self) -> int:
        """Memory that the arrays take."""
        return sum(values.nbytes for values in (self.spans, self.masks, self.pixels, self.key_ends, self.key_bytes))

    def key(self, row: int) -> str:
        """A sample's name inside its shard."""
        start = int(self.key_ends[row - 1]) if row else 0
        return self.key_bytes[start : int(self.key_ends[row])].tobytes().decode("utf-8", "replace")


def field_of(extension: str) -> tuple[str, str] | None:
    """(field, kind) of a member by its extension, `png` or `mask.png`; None where the allow-list has no decoder for it."""
    prefix, _, last = extension.lower().rpartition(".")
    kind = KINDS.get(last)
    if kind is None or (prefix and not _FIELD.fullmatch(prefix)):
        return None
    return (prefix or kind), kind


class _Builder:
    """Collects rows from the members of one shard."""

    def __init__(self, data):
        self.data = data
        self.columns: dict[tuple[str, str], int] = {}
        self.known: dict[bytes, int | None] = {}  # extension -> column
        self.rows: dict[bytes, dict[int, int]] = {}  # key -> column -> member
        self.repeated: set[bytes] = set()
        self.bad: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.channels: Counter[int] = Counter()

    def count(self, reason: str, key: bytes) -> None:
        self.bad[reason] += 1
        self.first.setdefault(reason, key.decode("utf-8", "replace"))

    def _column(self, extension: bytes) -> int | None:
        field = field_of(extension.decode("utf-8", "replace"))
        if field is None or (field not in self.columns and len(self.columns) >= _MAX_FIELDS):
            return None
        return self.columns.setdefault(field, len(self.columns))

    def group(self, members: tar.Members) -> list[bytes]:
        """Members to rows by key, the name up to the first dot of its last part; returns the key of every member."""
        keys = []
        for number, name in enumerate(members.names):
            slash = name.rfind(b"/") + 1
            dot = name.find(b".", slash)
            key, extension = (name[:dot], name[dot + 1 :]) if dot > slash else (name, b"")
            keys.append(key)
            if extension not in self.known:
                self.known[extension] = self._column(extension)
            column = self.known[extension]
            if column is None:
                continue
            row = self.rows.setdefault(key, {})
            if column not in row:
                row[column] = number
            elif key not in self.repeated:  # the first one stays
                self.repeated.add(key)
                self.count("duplicate", key)
        return keys

    def check(self, members: tar.Members) -> tuple[dict[bytes, ImageHeader], int]:
        """Drops rows with a member that is cut off, too large or undecodable; what the images say of themselves, and the highest label."""
        kinds = [kind for _, kind in self.columns]
        image, label = self.columns.get(("image", "image"), -1), self.columns.get(("label", "label"), -1)
        headers: dict[bytes, ImageHeader] = {}
        highest = -1
        end = len(self.data)
        for key, row in list(self.rows.items()):
            try:
                for column, number in row.items():
                    kind, start, size = kinds[column], members.offsets[number], members.sizes[number]
                    if start + size > end:
                        del self.rows[key]  # the damage is noted once, for the shard
                        break
                    if size > LIMIT_BYTES[kind]:
                        raise BadSample("over the byte limit")
                    value = CHECKS[kind](self.data[start : start + size])
                    if column == image:
                        headers[key] = value
                    elif column == label:
                        highest = max(highest, value)
            except BadSample as reason:
                del self.rows[key]
                self.count(str(reason), key)
        return headers, highest

    def arrays(self, members: tar.Members, keys: list[bytes], headers: dict[bytes, ImageHeader]) -> dict[str, np.ndarray]:
        """The sidecar's tensors."""
        spans = np.full((len(self.rows), len(self.columns), 2), -1, np.int64)
        rows = [(n, column, number) for n, row in enumerate(self.rows.values()) for column, number in row.items()]
        if rows:
            n, column, number = np.array(rows).T
            spans[n, column, 0], spans[n, column, 1] = np.array(members.offsets)[number], np.array(members.sizes)[number]
        masks = ((spans[:, :, 0] >= 0) << np.arange(len(self.columns))).sum(axis=1).astype(np.uint32)
        suspects = {keys[at] for place, _ in members.damage for at in (place - 1, place) if 0 <= at < len(keys)}
        masks |= np.array([SUSPECT if key in suspects else 0 for key in self.rows], np.uint32)
        pixels = [(header.height, header.width) if (header := headers.get(key)) else (0, 0) for key in self.rows]
        return {
            "spans": spans,
            "masks": masks,
            "pixels": np.array(pixels, np.int32).reshape(-1, 2),
            "key_ends": np.cumsum([len(key) for key in self.rows], dtype=np.int64),
            "key_bytes": np.frombuffer(b"".join(self.rows), np.uint8),
        }


def _build(data, meta: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    members = tar.scan(data)
    builder = _Builder(data)
    for place, reason in members.damage:
        builder.count(reason, members.names[place - 1] if place else b"the start")
    keys = builder.group(members)
    headers, highest = builder.check(members)
    arrays = builder.arrays(members, keys, headers)
    values, counts = np.unique(arrays["masks"], return_counts=True)
    facts = {
        "digest": hashlib.sha256(data).hexdigest(),
        "fields": [list(field) for field in builder.columns],
        "masks": [list(pair) for pair in zip(values.tolist(), counts.tolist(), strict=True)],
        "bad": dict(builder.bad),
        "first": builder.first,
        "highest_label": highest,
        "sizes": np.unique(arrays["pixels"], axis=0)[:2].tolist(),
        "channels": dict(Counter(str(headers[key].channels) for key in builder.rows if key in headers)),
    }
    return {**meta, **facts}, arrays


def _stamp(path: Path) -> dict[str, Any]:
    """What tells whether a sidecar is still true of its shard."""
    status = path.stat()
    return {"version": INDEX_VERSION, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def sidecars(path: Path) -> tuple[Path, Path]:
    """Where the sidecar of a shard may lie: beside it, or in the cache folder."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return path.with_name(path.name + ".idx"), cache_folder() / "index" / f"{name}.idx"


def build(path: Path) -> dict[str, Any]:
    """Indexes a shard, writes the sidecar and returns its facts (`Shard.meta`)."""
    stamp = _stamp(path)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if stamp["size"] else b""
        meta, arrays = _build(data, stamp)
    content = save(arrays, {"genlib": json.dumps(meta)})
    beside, cached = sidecars(path)
    try:
        write_atomically(beside, content)
    except OSError:
        write_atomically(cached, content)
    return meta


def _facts(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The sidecar that is true of the shard now, if there is one."""
    stamp = _stamp(path)
    for sidecar in sidecars(path):
        try:
            with safe_open(sidecar, "np") as file:
                meta = json.loads(file.metadata()["genlib"])
            if all(meta.get(name) == value for name, value in stamp.items()):
                return sidecar, meta
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def facts(path: Path) -> dict[str, Any]:
    """Facts of a shard (`Shard.meta`), from its sidecar or by indexing it now."""
    found = _facts(path)
    return found[1] if found else build(path)


def load(path: Path) -> Shard:
    """The whole index of a shard."""
    found = _facts(path)
    if found is None:
        build(path)
        found = _facts(path)
    assert found is not None
    with safe_open(found[0], "np") as file:
        arrays = {name: file.get_tensor(name) for name in ("spans", "masks", "pixels", "key_ends", "key_bytes")}
    return Shard(path=path, meta=found[1], **arrays)
