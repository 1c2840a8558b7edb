"""Which samples count, decided from the index before training: `width>=256`, `aesthetic>5`, `caption_bytes<=300`."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from genlib.config import comparison, nearest
from genlib.data.index.shard_index import ShardIndex
from genlib.splitmix import mix_array

_COMPARE = {">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt}
KNOWN = ("width", "height", "pixels", "aspect", "caption_bytes", "draw")
"""Numbers of every image and caption in the index, and `draw`, see `_draws`; other names are numbers in JSON members, and `label`."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A comparison that a sample must pass; one without such a number does not."""

    name: str
    comparison: str
    value: float

    def passes(self, shard: ShardIndex) -> np.ndarray:
        """Which rows of a shard pass, (n,) bool."""
        values = numbers(shard, self.name)
        return _COMPARE[self.comparison](values, self.value) & ~np.isnan(values)


def parse(text: str) -> Filter:
    """ValueError where the text is no comparison with a number."""
    return Filter(*comparison(text))


def passing(filters: Iterable[Filter], shard: ShardIndex) -> np.ndarray:
    """Which rows of a shard pass all filters, (n,) bool."""
    passed = np.ones(len(shard.masks), bool)
    for each in filters:
        passed &= each.passes(shard)
    return passed


def check_known(filters: Sequence[Filter], names: Iterable[str]) -> None:
    """ValueError for a filter by a number that no sample has."""
    known = [*KNOWN, *names]
    for each in filters:
        if each.name not in known:
            raise ValueError(f"data.filters: no sample has a number {each.name!r}.{nearest(each.name, known)} There are {', '.join(known)}")


def numbers(shard: ShardIndex, name: str) -> np.ndarray:
    """One number a row, nan where there is none. (n,) float64."""
    if name not in KNOWN:
        names = shard.meta["numbers"]
        return shard.numbers[:, names.index(name)] if name in names else np.full(len(shard.masks), np.nan)
    if name == "draw":
        return _draws(shard)
    if name == "caption_bytes":
        column = shard.fields.get("text")
        sizes = np.full(len(shard.masks), -1) if column is None else shard.spans[:, column, 1]
        return np.where(sizes < 0, np.nan, sizes)
    height, width = np.where(shard.pixels > 0, shard.pixels.astype(np.float64), np.nan).T
    if name == "aspect":
        return np.maximum(height, width) / np.minimum(height, width)
    return {"width": width, "height": height, "pixels": width * height}[name]


def _draws(shard: ShardIndex) -> np.ndarray:
    """A number in [0, 1) a row, drawn from its key alone, so that it stays the same when other samples come or go."""
    keys, start, sums = shard.key_bytes.tobytes(), 0, []
    for end in shard.key_ends.tolist():
        sums.append(zlib.crc32(keys[start:end]))
        start = end
    return (mix_array(np.array(sums, np.uint64)) >> np.uint64(11)) / 2.0**53
