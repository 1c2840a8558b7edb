"""From sample numbers to decoded samples: local shards by mmap, and a bounded memory of what was decoded."""

from __future__ import annotations

import logging
import mmap
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from genlib.data.decode import BadSample, decode_image, decode_json, decode_label, decode_text
from genlib.data.shards import Recent, ShardSet

log = logging.getLogger(__name__)
_OPEN_SHARDS = 256  # each holds a file descriptor; the usual limit is 1,024
_OBJECT_BYTES = 400  # what Python needs for one small value, a caption or a few facts
_DECODE = {"text": decode_text, "label": decode_label, "json": decode_json}
_STAND_IN = {"text": "", "label": 0, "json": {}}


class Reader:
    """Decodes samples of a set into values by field; made anew in every process that reads."""

    def __init__(self, shards: ShardSet, *, channels: int = 3, cache_bytes: int = 0):
        self.shards, self.channels = shards, channels
        self.failures: Counter[str] = Counter()
        """Samples that could not be decoded, by reason, each time they were met."""
        self._maps = Recent(self._map, _OPEN_SHARDS)
        self._cache: dict[tuple[int, int, tuple[str, ...]], tuple[Any, ...]] = {}
        self._cache_left = cache_bytes

    def _map(self, shard: int) -> mmap.mmap:
        path, expected = self.shards.paths[shard], self.shards.index(shard).meta["size"]
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(data) != expected:  # a read behind the end of a mapped file would end the process
            raise ValueError(f"shard {path} changed while it was in use; start again")
        return data

    def members(self, shard: int, place: int, fields: Sequence[str]) -> tuple[str, list[bytes | None]]:
        """Name `shard:key` of one sample and the bytes of its members; None where it has none."""
        index, row = self.shards.row(shard, place)
        data, spans, columns = self._maps[shard], index.spans[row].tolist(), index.fields
        found: list[bytes | None] = []
        for field in fields:
            offset, size = spans[columns[field]] if field in columns else (-1, 0)
            found.append(data[offset : offset + size] if offset >= 0 else None)
        return f"{index.path.stem}:{index.key(row)}", found

    def key(self, sample: int) -> str:
        """Name `shard:key` of a sample."""
        shards, places = self.shards.locate(np.array([sample]))
        return self.members(int(shards[0]), int(places[0]), ())[0]

    def _decode(self, shard: int, place: int, fields: tuple[str, ...], at_least: int) -> tuple[Any, ...] | None:
        """(name, value of each field); None for a sample that fails."""
        name, members = self.members(shard, place, fields)
        values: list[Any] = [name]
        try:
            for field, data in zip(fields, members, strict=True):
                kind = self.shards.kinds[field]
                if kind == "image":
                    values.append(decode_image(data or b"", self.channels if field == "image" else 1, at_least if field == "image" else 0))
                    values[-1].flags.writeable = False
                else:
                    values.append(_STAND_IN[kind] if data is None else _DECODE[kind](data))
        except BadSample as reason:
            self._failed(name, str(reason))
            return None
        return tuple(values)

    def _failed(self, name: str, reason: str) -> None:
        if not self.failures[reason]:
            log.warning("sample %s cannot be read (%s): it counts for nothing; further ones are only counted", name, reason)
        self.failures[reason] += 1

    def _keep(self, sample: int, at_least: int, fields: tuple[str, ...], row: tuple[Any, ...]) -> None:
        """Keeps a decoded sample while there is room. What is kept stays: in an order that visits each once, any exchange only costs."""
        size = _OBJECT_BYTES * len(row) + sum(value.nbytes for value in row if isinstance(value, np.ndarray))
        if size <= self._cache_left:
            self._cache_left -= size
            self._cache[sample, at_least, fields] = row

    def _row(self, sample: int, shard: int, place: int, fields: tuple[str, ...], at_least: int) -> tuple[Any, ...] | None:
        row = self._cache.get((sample, at_least, fields))
        if row is None:
            row = self._decode(shard, place, fields, at_least)
            if row is not None:
                self._keep(sample, at_least, fields, row)
        return row

    def read(self, samples: np.ndarray, fields: Sequence[str], at_least: int = 0) -> tuple[list[str], dict[str, list[Any]], np.ndarray]:
        """Names, values by field and failed (B,) bool of samples (B,); `at_least` is the side to which an image may shrink, 0 as stored.

        Rows that fail hold stand-ins: a black image like the first good one, an empty text, label 0.
        """
        fields = tuple(fields)
        shards, places = self.shards.locate(samples)
        where = zip(samples.tolist(), shards.tolist(), places.tolist(), strict=True)
        rows = [self._row(sample, shard, place, fields, at_least) for sample, shard, place in where]
        failed = np.array([row is None for row in rows])
        if failed.any():
            good = next((row for row in rows if row is not None), None)
            rows = [row or self._stand_in(int(sample), fields, good, at_least) for row, sample in zip(rows, samples, strict=True)]
        columns = [list(column) for column in zip(*rows, strict=True)]  # type: ignore[arg-type]
        return columns[0], dict(zip(fields, columns[1:], strict=True)), failed

    def _stand_in(self, sample: int, fields: tuple[str, ...], good: tuple[Any, ...] | None, at_least: int) -> tuple[Any, ...]:
        side = at_least or 1
        blank = [np.zeros((side, side, self.channels if field == "image" else 1), np.uint8) for field in fields]
        if good is not None:
            blank = [np.zeros_like(value) if isinstance(value, np.ndarray) else None for value in good[1:]]
        kinds = [self.shards.kinds[field] for field in fields]
        return self.key(sample), *[image if kind == "image" else _STAND_IN[kind] for kind, image in zip(kinds, blank, strict=True)]
