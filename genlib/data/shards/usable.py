"""Which rows of a shard are samples of a set, and what became of all members of its tar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from genlib.data.codecs.captions import MISSING
from genlib.data.index import filters, shard_index
from genlib.data.index.storage_path import PathList, StoragePath
from genlib.data.index.validation import SUSPECT

MapShards = Callable[[Callable, Any], Iterable]
"""Maps a function over many shards, results in their order."""
Counts = Sequence[tuple[int, int]]
"""For each shard the rows with all members and a caption, and those of them that pass the filters."""
MISSING_MEMBER, NOT_READ, FILTERED = "missing member", "field that is not read", "does not pass the filters"
_NO_COLUMN = 30  # a bit beyond all columns: see `MAX_FIELDS`


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a row needs to be a sample: members, by field and kind, and a caption in a JSON field; and which filters it passes."""

    kinds: Mapping[str, str]
    caption_key: str = ""
    filters: tuple[filters.Filter, ...] = ()

    def bits(self, meta: Mapping[str, Any]) -> int:
        """Bits that a row has with all members; a bit beyond all columns where the shard lacks a field altogether."""
        columns = {(name, kind): column for column, (name, kind) in enumerate(meta["fields"])}
        return sum(1 << column for column in {columns.get(field, _NO_COLUMN) for field in self.kinds.items()})

    def complete(self, meta: Mapping[str, Any]) -> int:
        """Rows of a shard that have all members."""
        bits = self.bits(meta)
        return sum(rows for mask, rows in meta["masks"] if mask & bits == bits)

    def captioned(self, shard: shard_index.ShardIndex) -> np.ndarray:
        """Which rows have all members and the caption, (n,) bool."""
        bits = np.uint32(self.bits(shard.meta))
        whole = (shard.masks & bits) == bits
        if not self.caption_key:
            return whole
        names = shard.meta["texts"]
        bit = np.uint32(1 << names.index(self.caption_key) if self.caption_key in names else 0)
        return whole & ((shard.texts & bit) > 0)

    def rows(self, shard: shard_index.ShardIndex) -> np.ndarray:
        """The rows that are samples, in stored order."""
        whole = self.captioned(shard)
        return np.flatnonzero(whole & filters.passing(self.filters, shard) if self.filters else whole)


def counts(paths: PathList, metas: Sequence[Mapping[str, Any]], wanted: Wanted, each: MapShards) -> list[tuple[int, int]]:
    """See `Counts`."""
    if not wanted.filters and not wanted.caption_key:
        return [(rows, rows) for rows in map(wanted.complete, metas)]
    filters.check_known(wanted.filters, sorted({name for meta in metas for name in meta["numbers"]}))
    return list(each(partial(_count, wanted=wanted), paths))


def _count(path: StoragePath, wanted: Wanted) -> tuple[int, int]:
    shard = shard_index.load(path)
    return int(wanted.captioned(shard).sum()), len(wanted.rows(shard))


def pixels(path: StoragePath, wanted: Wanted) -> np.ndarray:
    """Height and width of the images of one shard's samples."""
    shard = shard_index.load(path)
    return shard.pixels[wanted.rows(shard)]


def bad(paths: PathList, metas: Sequence[Mapping[str, Any]], wanted: Wanted, counted: Counts) -> tuple[Counter[str], dict[str, str]]:
    """How many samples were dropped for each reason, and the first of each as `shard:key`."""
    found: Counter[str] = Counter()
    first: dict[str, str] = {}

    def note(reason: str, number: int, path: StoragePath, key: Callable[[], str]) -> None:
        if number:
            found[reason] += number
            if reason not in first:
                first[reason] = f"{path.name}:{key()}"

    for path, meta, (captioned, _) in zip(paths, metas, counted, strict=True):
        found.update(meta["bad"])
        for reason, key in meta["first"].items():
            first.setdefault(reason, f"{path.name}:{key}")
        bits = wanted.bits(meta)
        incomplete = sum(rows for mask, rows in meta["masks"] if mask < SUSPECT and mask & bits != bits)
        note(MISSING_MEMBER, incomplete, path, partial(_first_incomplete, path, bits))
        note(MISSING, wanted.complete(meta) - captioned, path, partial(_first_silent, path, wanted))
    return found, first


def _first_incomplete(path: StoragePath, bits: int) -> str:
    shard = shard_index.load(path)
    return shard.key(int(np.flatnonzero((shard.masks & np.uint32(bits | SUSPECT)) != bits)[0]))


def _first_silent(path: StoragePath, wanted: Wanted) -> str:
    shard = shard_index.load(path)
    bits = np.uint32(wanted.bits(shard.meta))
    return shard.key(int(np.flatnonzero(((shard.masks & bits) == bits) & ~wanted.captioned(shard))[0]))


def unused(metas: Sequence[Mapping[str, Any]], wanted: Wanted, counted: Counts) -> Counter[str]:
    """Members of all tars that are of no sample, by reason: with those of samples, they are all that the tars hold."""
    found: Counter[str] = Counter()
    for meta, (captioned, passing) in zip(metas, counted, strict=True):
        found.update(meta["unused"])
        bits = wanted.bits(meta)
        for mask, rows in meta["masks"]:
            members = (mask & ~SUSPECT).bit_count()
            whole = mask & bits == bits
            found[NOT_READ if whole else MISSING_MEMBER] += rows * (members - len(wanted.kinds) * whole)
        found[MISSING] += (wanted.complete(meta) - captioned) * len(wanted.kinds)
        found[FILTERED] += (captioned - passing) * len(wanted.kinds)
    return +found
