"""From the members of a tar to the arrays of its index: members grouped by key and checked, with the facts that filters need."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from genlib.data.codecs.decode import KINDS, LIMIT_BYTES, BadSample, array_header, decode_json, decode_label, decode_text
from genlib.data.codecs.image_header import ImageHeader, image_header, mask_header
from genlib.data.index import tar
from genlib.data.index.content import FileContent
from genlib.data.index.validation import FIELD, FIRST_BYTES, MAX_FIELDS, MAX_NUMBERS, NUMBER, SUSPECT

_FIELD, _NUMBER = re.compile(FIELD), re.compile(NUMBER)
_CHECKS: dict[str, Callable[[bytes], Any]] = {
    "image": image_header,
    "text": decode_text,
    "label": decode_label,
    "json": decode_json,
    "array": array_header,
}


def printable_key(key: bytes) -> str:
    """A sample's name for a terminal: control characters are escaped."""
    text = key.decode("utf-8", "replace")
    return text if text.isprintable() else ascii(text)[1:-1]


def field_of(extension: str) -> tuple[str, str] | None:
    """(field, kind) of a member by its extension, `png` or `mask.png`; None where the allow-list has no decoder for it."""
    prefix, _, last = extension.lower().rpartition(".")
    kind = KINDS.get(last)
    if kind is None or (prefix and not _FIELD.fullmatch(prefix)) or (prefix in KINDS.values() and prefix != kind):
        return None
    return (prefix or kind), kind


def check_of(field: str, kind: str) -> Callable[[bytes], Any]:
    """The check of a member, which it must pass before its sample gets a number."""
    return mask_header if kind == "image" and (field == "mask" or field.endswith("_mask")) else _CHECKS[kind]


class IndexBuilder:
    """Collects the rows of one shard: `group` its members by key, `check` each, then make the `arrays`."""

    def __init__(self, data: FileContent):
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
        """Counts a bad sample under a reason, and keeps the first name of each."""
        self.bad[reason] += 1
        self.first.setdefault(reason, printable_key(key[:FIRST_BYTES]))

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
        kinds, checks = [kind for _, kind in self.columns], [check_of(*column) for column in self.columns]
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
                    value, self.sums[number] = checks[column](data), zlib.crc32(data)
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
        """The arrays of the index, one entry a row."""
        spans = np.full((len(self.rows), len(self.columns), 2), -1, np.int64)
        rows = [(n, column, number) for n, row in enumerate(self.rows.values()) for column, number in row.items()]
        sums = np.zeros(spans.shape[:2], np.uint32)
        if rows:
            n, column, number = np.array(rows).T
            spans[n, column, 0], spans[n, column, 1] = np.array(members.offsets)[number], np.array(members.sizes)[number]
            sums[n, column] = [self.sums[number] for _, _, number in rows]
        masks = ((spans[:, :, 0] >= 0) << np.arange(len(self.columns))).sum(axis=1).astype(np.uint32)
        suspects = {keys[at] for number, _ in members.damage for at in (number - 1, number) if 0 <= at < len(keys)}
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


def build_arrays(data: FileContent, meta: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts of a shard, beside those in `meta`, and the arrays of its index."""
    members = tar.scan(data)
    builder = IndexBuilder(data)
    for number, reason in members.damage:
        builder.count(reason, members.names[number - 1] if number else b"the start")
    keys = builder.group(members)
    headers = builder.check(members)
    arrays = builder.arrays(members, keys, headers)
    values, counts = np.unique(arrays["masks"], return_counts=True)
    facts = {
        "digest": digest_of(data, members.behind_end > 0),
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


def digest_of(data: FileContent, joined: bool) -> str:
    """SHA-256 of the shard, in hexadecimal digits.

    Where members lie behind the end of an archive, `joined`, another text is added: versions that stopped at that end gave the same
    bytes a digest of fewer samples.
    """
    return data.sha256(b"joined" if joined else b"")
