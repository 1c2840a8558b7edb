"""From the members of a tar to the arrays of its index: members grouped by key and checked, with the facts that filters need."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from genlib.data.codecs.captions import has_caption
from genlib.data.codecs.decode import LIMIT_BYTES, PICTURES, TWO_SIZES, BadSample, array_header, decode_json, decode_label, decode_text
from genlib.data.codecs.image_header import ImageHeader, image_header, mask_header
from genlib.data.index import grouping, tar
from genlib.data.index.content import FileContent
from genlib.data.index.validation import DOT_IN_KEY, DUPLICATE, FIRST_BYTES, MAX_NUMBERS, MAX_TEXTS, NUMBER, SUSPECT, TEXT_CHARACTERS

_NUMBER = re.compile(NUMBER)
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


def check_of(field: str, kind: str) -> Callable[[bytes], Any]:
    """The check of a member, which it must pass before its sample gets a number."""
    return mask_header if kind == "image" and (field == "mask" or field.endswith("_mask")) else _CHECKS[kind]


class IndexBuilder:
    """Collects the rows of one shard: its members by key, `check` each, then make the `arrays`."""

    def __init__(self, data: FileContent, members: tar.Members):
        self.data, self.members = data, members
        self.groups = grouping.group(members)
        self.columns, self.rows, self.unused = self.groups.columns, self.groups.rows, self.groups.unused
        self.bad: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.numbers: dict[str, dict[bytes, float]] = {}  # name -> key -> value
        self.texts: dict[str, int] = {}  # name of a field with text in JSON -> its bit
        self.texts_of: dict[bytes, int] = {}  # key -> bits
        self.lists: dict[str, None] = {}
        self.highest_label = -1
        self.sums: dict[int, int] = {}  # member -> CRC-32

    def count(self, reason: str, key: bytes) -> None:
        """Counts a bad sample under a reason, and keeps the first name of each."""
        self.bad[reason] += 1
        self.first.setdefault(reason, printable_key(key[:FIRST_BYTES]))

    def count_groups(self) -> None:
        """Counts what grouping found wrong."""
        for number, reason in self.members.damage:
            self.count(reason, self.members.names[number - 1] if number else b"the start")
        for key in dict.fromkeys(self.groups.repeated):
            self.count(DUPLICATE, key)
        for name in self.groups.cut:
            self.count(DOT_IN_KEY, name)

    def _drop(self, key: bytes, reason: str) -> None:
        self.unused[reason] += len(self.rows.pop(key))

    def check(self) -> dict[bytes, ImageHeader]:
        """Drops rows with a member that is cut off, too large or undecodable; what the images say of themselves."""
        members = self.members
        kinds, checks = [kind for _, kind in self.columns], [check_of(*column) for column in self.columns]
        image, label, facts = (self.columns.get((name, name), -1) for name in ("image", "label", "json"))
        pair = {self.columns.get((name, "image"), -1) for name in PICTURES}
        headers: dict[bytes, ImageHeader] = {}
        end = len(self.data)
        for key, row in list(self.rows.items()):
            try:
                sides: set[tuple[int, int]] = set()
                for column, number in row.items():
                    kind, start, size = kinds[column], members.offsets[number], members.sizes[number]
                    if start + size > end:
                        self._drop(key, tar.TRUNCATED)  # the damage is noted once, for the shard
                        break
                    if size > LIMIT_BYTES[kind]:
                        raise BadSample("over the byte limit")
                    data = self.data[start : start + size]
                    value, self.sums[number] = checks[column](data), zlib.crc32(data)
                    if column in pair:
                        sides.add((value.height, value.width))
                        if len(sides) > 1:
                            raise BadSample(TWO_SIZES)
                    if column == image:
                        headers[key] = value
                    elif column == label:
                        self.numbers.setdefault("label", {})[key] = value
                        self.highest_label = max(self.highest_label, value)
                    elif column == facts:
                        self._note(key, value)
            except BadSample as reason:
                self._drop(key, str(reason))
                self.count(str(reason), key)
        return headers

    def _note(self, key: bytes, facts: dict[str, Any]) -> None:
        """Keeps the numbers of a JSON member, for filters, and which fields are captions; a label there gives way to a member of its own."""
        for name, value in facts.items():
            if isinstance(value, str | list):
                self._note_text(key, name, value)
                continue
            if type(value) not in (int, float, bool) or not abs(value) < 1e300:
                continue
            if name not in self.numbers and (len(self.numbers) >= MAX_NUMBERS or not _NUMBER.fullmatch(name)):
                continue
            self.numbers.setdefault(name, {}).setdefault(key, float(value))

    def _note_text(self, key: bytes, name: str, value: str | list[Any]) -> None:
        if not has_caption(value):
            return
        if name not in self.texts:
            if len(self.texts) >= MAX_TEXTS or not 0 < len(name) <= TEXT_CHARACTERS or not name.isprintable():
                return
            self.texts[name] = 1 << len(self.texts)
        self.texts_of[key] = self.texts_of.get(key, 0) | self.texts[name]
        if isinstance(value, list):
            self.lists.setdefault(name)

    def arrays(self, headers: dict[bytes, ImageHeader]) -> dict[str, np.ndarray]:
        """The arrays of the index, one entry a row."""
        members, keys = self.members, self.groups.keys
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
            "texts": np.array([self.texts_of.get(key, 0) for key in self.rows], np.uint32),
            "key_ends": np.cumsum([len(key) for key in self.rows], dtype=np.int64),
            "key_bytes": np.frombuffer(b"".join(self.rows), np.uint8),
        }


def build_arrays(data: FileContent, meta: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts of a shard, beside those in `meta`, and the arrays of its index."""
    members = tar.scan(data)
    builder = IndexBuilder(data, members)
    builder.count_groups()
    headers = builder.check()
    arrays = builder.arrays(headers)
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
        "members": members.seen,
        "unused": dict(builder.unused),
        "endings": builder.groups.common_endings(),
        "texts": list(builder.texts),
        "lists": list(builder.lists),
    }
    return {**meta, **facts}, arrays


def digest_of(data: FileContent, joined: bool) -> str:
    """SHA-256 of the shard, in hexadecimal digits.

    Where members lie behind the end of an archive, `joined`, another text is added: versions that stopped at that end gave the same
    bytes a digest of fewer samples.
    """
    return data.sha256(b"joined" if joined else b"")
