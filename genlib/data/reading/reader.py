"""From sample numbers to decoded samples, with a bounded memory of those that were decoded.

Each member's bytes are compared with the checksum in the index (see `genlib.data.index.shard_index`): a shard that is cut, replaced
or written anew while it is read gives the samples that were indexed, or for each that it lost a reason.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from genlib.config import Color
from genlib.data.codecs.decode import (
    CHANGED,
    PICTURES,
    REASONS,
    UNREADABLE,
    BadSample,
    StoredArray,
    decode_array,
    decode_json,
    decode_label,
    decode_text,
)
from genlib.data.codecs.images import WHITE, decode_image, decode_map
from genlib.data.index.storage_path import StoragePath
from genlib.data.reading.remote_segments import RemoteSegments
from genlib.data.shards.caption_source import drawn
from genlib.data.shards.shard_set import ShardSet
from genlib.files import open_regular, read_at
from genlib.lru_cache import LruCache

_OPEN_SHARDS = 256  # each holds a file descriptor; the usual limit is 1,024
_NEAR_BYTES, _FAR = 8192, 1 << 62  # between members that are read at once
_OBJECT_BYTES = 400  # what Python needs for one small value, a caption or a few facts
_DECODE = {"text": decode_text, "label": decode_label, "json": decode_json, "array": decode_array}
_STAND_IN = {"text": "", "label": 0, "json": {}, "array": np.zeros(0, np.float32).view(StoredArray)}
AtLeast = int | tuple[int, int]
"""Pixels to which an image may shrink, see `decode_image`."""


class SampleReader:
    """Decodes samples of a set into values by field; every process that reads has its own.

    `channels` are those of pictures (`PICTURES`), `background` is the colour behind what is transparent, see `decode_image`.
    `on_sample` is called with the number of each sample before it is decoded. `segments` fetches members of shards at URLs.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        channels: int = 3,
        background: Color = WHITE,
        cache_bytes: int = 0,
        segments: RemoteSegments | None = None,
        on_sample: Callable[[int], None] | None = None,
    ):
        self.shards, self.channels, self.background, self.segments, self._on_sample = shards, channels, background, segments, on_sample
        self._files = LruCache(self._open, _OPEN_SHARDS)
        self._cache: dict[tuple[int, AtLeast, tuple[str, ...]], tuple[Any, ...]] = {}
        self._cache_left = cache_bytes

    def _open(self, shard: int) -> FileIO | None:
        path = self.shards.paths[shard]
        return open_regular(path) if isinstance(path, Path) else None

    def members(self, shard: int, ordinal: int, fields: Sequence[str]) -> tuple[str, list[bytes | None]]:
        """Name `shard:key` of one sample and the bytes of its members; None where it has none.

        BadSample where they are not those that were indexed, or cannot be read.
        """
        index, rows = self.shards.rows(shard)
        row, columns = int(rows[ordinal]), index.fields
        spans, sums = index.spans[row].tolist(), index.sums[row].tolist()
        chosen = [columns.get(field, -1) for field in fields]
        if isinstance(index.path, Path):
            found = self._local(shard, [spans[column] if column >= 0 else (-1, 0) for column in chosen])
        else:
            found = self._remote(shard, ordinal, fields)
        for column, data in zip(chosen, found, strict=True):
            if data is not None and zlib.crc32(data) != sums[column]:
                raise BadSample(CHANGED)
        return f"{index.path.stem}:{index.key(row)}", found

    def _remote(self, shard: int, ordinal: int, fields: Sequence[str]) -> list[bytes | None]:
        if self.segments is None:
            self.segments = RemoteSegments(self.shards)
        return self.segments.members(shard, ordinal, fields)

    def _local(self, shard: int, spans: Sequence[Sequence[int]]) -> list[bytes | None]:
        """Bytes at (offset, size), None for those of offset -1. A file that was lost or replaced is opened once more."""
        try:
            return self._read(shard, spans)
        except OSError:
            self._files.forget(shard)
        try:
            return self._read(shard, spans)
        except OSError:
            raise BadSample(UNREADABLE) from None

    def _read(self, shard: int, spans: Sequence[Sequence[int]]) -> list[bytes | None]:
        file = self._files[shard]
        assert file is not None
        start, end, total = _FAR, 0, _NEAR_BYTES
        for offset, size in spans:
            if offset >= 0:
                start, end, total = start if start < offset else offset, end if end > offset + size else offset + size, total + size
        if end - start > total:
            return [read_at(file, size, offset) if offset >= 0 else None for offset, size in spans]
        data = read_at(file, end - start, start) if end else b""
        return [data[offset - start : offset - start + size] if offset >= 0 else None for offset, size in spans]

    def where(self, sample: int) -> StoragePath:
        """The shard that holds a sample."""
        shards, _ = self.shards.locate(np.array([sample]))
        return self.shards.paths[int(shards[0])]

    def key(self, sample: int) -> str:
        """Name `shard:key` of a sample."""
        shards, ordinals = self.shards.locate(np.array([sample]))
        index, rows = self.shards.rows(int(shards[0]))
        return f"{index.path.stem}:{index.key(int(rows[int(ordinals[0])]))}"

    def _decode(self, shard: int, ordinal: int, fields: tuple[str, ...], at_least: AtLeast) -> tuple[Any, ...] | str:
        """(name, value of each field), or why the sample fails."""
        try:
            name, members = self.members(shard, ordinal, [self.shards.member_of(field) for field in fields])
            values: list[Any] = [name]
            for field, data in zip(fields, members, strict=True):
                kind = self.shards.kinds[field]
                if kind == "image":
                    picture = field in PICTURES
                    values.append(
                        decode_image(data or b"", self.channels, at_least, self.background) if picture else decode_map(data or b"", self.background)
                    )
                    # it may stay in the cache: a transform that wrote into it would change every later epoch
                    values[-1].flags.writeable = False
                elif field == "text" and self.shards.captions is not None:
                    values.append(self.shards.captions.decode(data or b""))
                else:
                    values.append(_STAND_IN[kind] if data is None else _DECODE[kind](data))
                if field == "label" and values[-1] > self.shards.highest_label:  # an index that lied: a model may have no such class
                    raise BadSample("bad label")
        except BadSample as reason:
            return str(reason)
        return tuple(values)

    def _keep(self, sample: int, at_least: AtLeast, fields: tuple[str, ...], row: tuple[Any, ...]) -> None:
        """Keeps a decoded sample for good while there is room: in an order that visits each once an epoch, to replace one gains nothing."""
        size = _OBJECT_BYTES * len(row) + sum(value.nbytes for value in row if isinstance(value, np.ndarray))
        if size <= self._cache_left:
            self._cache_left -= size
            self._cache[sample, at_least, fields] = row

    def _row(self, sample: int, shard: int, ordinal: int, fields: tuple[str, ...], at_least: AtLeast) -> tuple[Any, ...] | str:
        row = self._cache.get((sample, at_least, fields))
        if row is None:
            if self._on_sample is not None:
                self._on_sample(sample)
            row = self._decode(shard, ordinal, fields, at_least)
            if isinstance(row, tuple):
                self._keep(sample, at_least, fields, row)
        return row

    def read(
        self,
        samples: np.ndarray,
        fields: Sequence[str],
        at_least: AtLeast = 0,
        bad: Mapping[int, str] | None = None,
        draws: Sequence[float] | None = None,
    ) -> tuple[list[str], dict[str, list[Any]], np.ndarray]:
        """Names, values by field and failed (B,) uint8 of samples (B,): 0 for a good one, else 1 + the number of its reason in `REASONS`.

        `at_least` is the side to which an image may shrink, or its height and width; 0 as stored. Samples in `bad` fail for the
        reason there, unread. Rows that fail hold stand-ins: a black image like the first good one, an empty text, label 0. Of several
        captions of a sample, `draws` (B,) in [0, 1) says which one it is; the first without them.
        """
        fields, bad = tuple(fields), bad or {}
        shards, ordinals = self.shards.locate(samples)
        where = zip(samples.tolist(), shards.tolist(), ordinals.tolist(), strict=True)
        rows = [bad.get(sample) or self._row(sample, shard, ordinal, fields, at_least) for sample, shard, ordinal in where]
        failed = np.array([1 + REASONS.index(row) if isinstance(row, str) else 0 for row in rows], np.uint8)
        if failed.any():
            good = next((row for row in rows if not isinstance(row, str)), None)
            rows = [
                self._stand_in(int(sample), fields, good, at_least) if isinstance(row, str) else row
                for row, sample in zip(rows, samples, strict=True)
            ]  # fmt: skip
        columns = [list(column) for column in zip(*rows, strict=True)]
        values = dict(zip(fields, columns[1:], strict=True))
        if "text" in values:
            values["text"] = drawn(values["text"], draws)
        return columns[0], values, failed

    def _stand_in(self, sample: int, fields: tuple[str, ...], good: tuple[Any, ...] | None, at_least: AtLeast) -> tuple[Any, ...]:
        height, width = (at_least or 1, at_least or 1) if isinstance(at_least, int) else at_least
        kinds = [self.shards.kinds[field] for field in fields]
        blank = [
            np.zeros((height, width, self.channels if field in PICTURES else 1), np.uint8) if kind == "image" else _STAND_IN[kind]
            for field, kind in zip(fields, kinds, strict=True)
        ]
        if good is not None:
            blank = [np.zeros_like(value) if isinstance(value, np.ndarray) else own for value, own in zip(good[1:], blank, strict=True)]
        return self.key(sample), *blank
