"""The index of a shard: where each sample's members lie, which samples are usable, and a digest that is the data's identity.

One sidecar a shard, `NAME.tar.idx`, in safetensors form (plain arrays, no pickle), beside the shard or in the cache folder where
that place is read-only (see `genlib.data.index.storage_path`). A sample that is no good gets no number and is counted by its reason, so the
number of samples and their order are fixed before training.

What a sidecar says is believed of a shard in two steps:

* When a set is opened: the sidecar is whole and can be true (see `genlib.data.index.validation`), and the shard's size and tag are those that
  were indexed: the time of its last modification, at a URL the ETag. With the same bytes in mind that is not enough, as anyone may
  set that time. So the time of its last change, which nobody can set, is compared too. Where that alone differs, as after a copy, a
  chmod or a rename, the content decides: the shard is read once and its digest compared, and the new time is noted. Otherwise the
  index is made again. A shard that is no regular file is refused.
* When a sample is read: each member has a CRC-32 here, and a member whose bytes have another one, or end before it does, fails as
  "changed since it was indexed", whatever the times say. A shard that changes under a run costs its samples, which are counted, and
  never goes into the weights as something else.

Files are copied by the kernel and not mapped: a shard that is cut while it is read gives fewer bytes, and no signal.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genlib.data.codecs.decode import CHECKS, KINDS, LIMIT_BYTES, BadSample, ImageHeader
from genlib.data.index import storage_path, tar, validation
from genlib.data.index.content import Content, ContentChangedError
from genlib.data.index.storage_path import Place
from genlib.data.index.validation import ARRAYS, FIELD, FIRST_BYTES, INDEX_VERSION, LIMIT_SIDECAR_BYTES, MAX_FIELDS, MAX_NUMBERS, NUMBER, SUSPECT

Found = tuple[dict[str, Any], dict[str, np.ndarray]]
"""What a sidecar says of the shard, and its arrays."""

_FIELD, _NUMBER = re.compile(FIELD), re.compile(NUMBER)


@dataclass(slots=True)
class Shard:
    """Index of one shard of n rows and F fields: a row is a sample whose members are sound, though one may be missing."""

    place: Place
    meta: dict[str, Any]
    """version, size, tag, changed (when, of a local file), digest, fields (name, kind), masks (pairs of present fields' bits and number
    of rows), bad, first, numbers (names), highest_label, sizes (the first two), channels, joined (members behind the first end of the
    archive, and where in bytes that is)."""
    spans: np.ndarray
    """(n, F, 2) int64: offset and size in bytes of each member; -1 where the sample has none."""
    sums: np.ndarray
    """(n, F) uint32: CRC-32 of each member's bytes; 0 where the sample has none."""
    masks: np.ndarray
    """(n,) uint32: bit f is set where field f is present; see `SUSPECT`."""
    pixels: np.ndarray
    """(n, 2) int32: height and width of the field `image`."""
    numbers: np.ndarray
    """(n, K) float64: numbers of the JSON member by name, and the label; nan where a sample has none."""
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
        return shown(self.key_bytes[start : int(self.key_ends[row])].tobytes())


def shown(key: bytes) -> str:
    """A sample's name as it may be printed: what a terminal would obey is written out."""
    text = key.decode("utf-8", "replace")
    return text if text.isprintable() else ascii(text)[1:-1]


def field_of(extension: str) -> tuple[str, str] | None:
    """(field, kind) of a member by its extension, `png` or `mask.png`; None where the allow-list has no decoder for it."""
    prefix, _, last = extension.lower().rpartition(".")
    kind = KINDS.get(last)
    if kind is None or (prefix and not _FIELD.fullmatch(prefix)) or (prefix in KINDS.values() and prefix != kind):
        return None
    return (prefix or kind), kind


class _Builder:
    """Collects rows from the members of one shard."""

    def __init__(self, data: Content):
        self.data = data
        self.columns: dict[tuple[str, str], int] = {}
        self.known: dict[bytes, int | None] = {}  # extension -> column
        self.rows: dict[bytes, dict[int, int]] = {}  # key -> column -> member
        self.repeated: set[bytes] = set()
        self.bad: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.numbers: dict[str, dict[bytes, float]] = {}  # name -> key -> value
        self.highest_label = -1
        self.sums: dict[int, int] = {}  # member -> CRC-32

    def count(self, reason: str, key: bytes) -> None:
        self.bad[reason] += 1
        self.first.setdefault(reason, shown(key[:FIRST_BYTES]))

    def _column(self, extension: bytes) -> int | None:
        field = field_of(extension.decode("utf-8", "replace"))
        if field is None or (field not in self.columns and len(self.columns) >= MAX_FIELDS):
            return None
        if any(name == field[0] and kind != field[1] for name, kind in self.columns):
            return None  # a field is of one kind in a shard, the first
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

    def check(self, members: tar.Members) -> dict[bytes, ImageHeader]:
        """Drops rows with a member that is cut off, too large or undecodable; what the images say of themselves."""
        kinds = [kind for _, kind in self.columns]
        image, label, facts = (self.columns.get((name, name), -1) for name in ("image", "label", "json"))
        headers: dict[bytes, ImageHeader] = {}
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
                    data = self.data[start : start + size]
                    value, self.sums[number] = CHECKS[kind](data), zlib.crc32(data)
                    if column == image:
                        headers[key] = value
                    elif column == label:
                        self.numbers.setdefault("label", {})[key] = value
                        self.highest_label = max(self.highest_label, value)
                    elif column == facts:
                        self._note(key, value)
            except BadSample as reason:
                del self.rows[key]
                self.count(str(reason), key)
        return headers

    def _note(self, key: bytes, facts: dict[str, Any]) -> None:
        """Keeps the numbers of a JSON member, for filters; a label there gives way to a member of its own."""
        for name, value in facts.items():
            if type(value) not in (int, float, bool) or not abs(value) < 1e300:
                continue
            if name not in self.numbers and (len(self.numbers) >= MAX_NUMBERS or not _NUMBER.fullmatch(name)):
                continue
            self.numbers.setdefault(name, {}).setdefault(key, float(value))

    def arrays(self, members: tar.Members, keys: list[bytes], headers: dict[bytes, ImageHeader]) -> dict[str, np.ndarray]:
        """The sidecar's tensors."""
        spans = np.full((len(self.rows), len(self.columns), 2), -1, np.int64)
        rows = [(n, column, number) for n, row in enumerate(self.rows.values()) for column, number in row.items()]
        sums = np.zeros(spans.shape[:2], np.uint32)
        if rows:
            n, column, number = np.array(rows).T
            spans[n, column, 0], spans[n, column, 1] = np.array(members.offsets)[number], np.array(members.sizes)[number]
            sums[n, column] = [self.sums[number] for _, _, number in rows]
        masks = ((spans[:, :, 0] >= 0) << np.arange(len(self.columns))).sum(axis=1).astype(np.uint32)
        suspects = {keys[at] for place, _ in members.damage for at in (place - 1, place) if 0 <= at < len(keys)}
        masks |= np.array([SUSPECT if key in suspects else 0 for key in self.rows], np.uint32)
        numbers = [[values.get(key, math.nan) for values in self.numbers.values()] for key in self.rows]
        pixels = [(header.height, header.width) if (header := headers.get(key)) else (0, 0) for key in self.rows]
        return {
            "spans": spans,
            "sums": sums,
            "masks": masks,
            "pixels": np.array(pixels, np.int32).reshape(-1, 2),
            "numbers": np.array(numbers, np.float64).reshape(len(self.rows), len(self.numbers)),
            "key_ends": np.cumsum([len(key) for key in self.rows], dtype=np.int64),
            "key_bytes": np.frombuffer(b"".join(self.rows), np.uint8),
        }


def _build(data: Content, meta: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    members = tar.scan(data)
    builder = _Builder(data)
    for place, reason in members.damage:
        builder.count(reason, members.names[place - 1] if place else b"the start")
    keys = builder.group(members)
    headers = builder.check(members)
    arrays = builder.arrays(members, keys, headers)
    values, counts = np.unique(arrays["masks"], return_counts=True)
    facts = {
        "digest": _digest(data, members.behind_end > 0),
        "fields": [list(field) for field in builder.columns],
        "masks": [list(pair) for pair in zip(values.tolist(), counts.tolist(), strict=True)],
        "bad": dict(builder.bad),
        "first": builder.first,
        "numbers": list(builder.numbers),
        "highest_label": builder.highest_label,
        "sizes": sorted(Counter(map(tuple, arrays["pixels"].tolist())))[:2],
        "channels": {str(channels): count for channels, count in Counter(headers[key].channels for key in builder.rows if key in headers).items()},
        "joined": [members.behind_end, members.end],
    }
    return {**meta, **facts}, arrays


def _digest(data: Content, joined: bool) -> str:
    """SHA-256 of the shard. Where members lie behind the end of an archive, another one than before they were read: they are more samples."""
    return data.sha256(b"joined" if joined else b"")


def _stamp(place: Place) -> dict[str, Any]:
    """What tells whether a sidecar is still true of its shard."""
    stamp = storage_path.stat(place)
    return {"version": INDEX_VERSION, "size": stamp.size, "tag": stamp.tag, "changed": stamp.changed}


def build(place: Place, stamp: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Indexes a shard, writes the sidecar and returns its facts (`Shard.meta`)."""
    stamp = stamp or _stamp(place)
    with storage_path.content(place) as data:
        data.refuse_changed(stamp["size"])
        meta, arrays = _build(data, dict(stamp))
        data.refuse_changed(stamp["size"])
    _keep(place, meta, arrays)
    return meta


def _keep(place: Place, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    content = validation.packed(meta, arrays)
    if len(content) > LIMIT_SIDECAR_BYTES:
        raise ValueError(f"shard {place} has {len(arrays['masks']):,} samples, too many for one index; write it as several shards")
    storage_path.write_sidecar(place, content)


def _first(sidecars: Iterable[Path], wanted: Mapping[str, Any]) -> Found | None:
    """The first sidecar that can be true and says what is wanted, if there is one."""
    return next((found for path in sidecars if (found := validation.read(path, wanted))), None)


def _found(place: Place) -> Found:
    """The sidecar that is true of the shard now, made where it is not there; once, however many processes of a node ask."""
    stamp = _stamp(place)
    found = _first(storage_path.sidecars(place), stamp)
    if found is None:
        with storage_path.indexing(place):
            found = _first(storage_path.sidecars(place, fetch=False), stamp) or _confirmed(place, stamp)
            if found is None:
                build(place, stamp)
                found = _first(storage_path.sidecars(place, fetch=False), stamp)
    if found is None:
        raise ContentChangedError(f"shard {place}")
    return found


def _confirmed(place: Place, stamp: dict[str, Any]) -> Found | None:
    """The sidecar of a local shard that was touched and has the content that was indexed, with the new time of change; None where there is none."""
    if not isinstance(place, Path):
        return None
    found = _first(storage_path.sidecars(place), {name: value for name, value in stamp.items() if name != "changed"})
    if found is None:
        return None
    with storage_path.content(place) as data:
        same = _digest(data, found[0]["joined"][0] > 0) == found[0]["digest"]
        data.refuse_changed(stamp["size"])
    if not same:
        return None
    found[0]["changed"] = stamp["changed"]
    _keep(place, *found)
    return found


def facts(place: Place) -> dict[str, Any]:
    """Facts of a shard (`Shard.meta`), from its sidecar or by indexing it now."""
    return _found(place)[0]


def load(place: Place, digest: str = "") -> Shard:
    """The whole index of a shard. One whose digest begins so is taken without asking whether the shard changed: who reads it will see."""
    known = (validation.read(path, {"version": INDEX_VERSION}) for path in storage_path.sidecars(place)) if digest else ()
    meta, arrays = next((found for found in known if found and found[0]["digest"].startswith(digest)), None) or _found(place)
    return Shard(place=place, meta=meta, **arrays)
