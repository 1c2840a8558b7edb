"""A set of shards, numbered as one list of samples."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from genlib.data.caches.lru import LruCache
from genlib.data.index import filters, shard_index
from genlib.data.index.filters import parse as parse_filter
from genlib.data.index.storage_path import PathList, StoragePath
from genlib.data.index.validation import SUSPECT

log = logging.getLogger(__name__)
INDEX_MEMORY_BYTES = 128 << 20
"""Memory for the shards' indices in a process; the least recently used are read again when they are needed."""
_NO_COLUMN = 30  # a bit beyond all columns: see `MAX_FIELDS`
MapShards = Callable[[Callable, Any], Iterable]
"""Maps a function over many shards, results in their order."""


@dataclass(eq=False)
class ShardSet:
    """The usable samples of some shards, numbered 0 ... len - 1 in stored order.

    A field that at least half of the samples have is a field of the set, and a sample without it is bad ("missing member"). What
    does not pass the filters gets no number either. In memory are the shards' names and where their samples start; it can be
    pickled, and written to a file.
    """

    paths: PathList
    filters: tuple[str, ...]
    parts: list[int]
    """Numbers of shards, one for each path that the user named."""
    fields: list[str]
    kinds: dict[str, str]
    """Kind of value by field, see `KINDS`."""
    starts: np.ndarray
    """(shards + 1,) int64: number of the first sample of each shard, and of all samples."""
    num_bytes: int
    """Size of all shards."""
    bad: Counter[str]
    """Bad samples, which have no number, by reason."""
    first_bad: dict[str, str]
    """`shard:key` of the first such sample, by reason."""
    joined: dict[str, list[int]]
    """By name of a shard that has members behind the end of the archive: how many, and the byte of that end."""
    filtered: int
    """Samples that do not pass the filters."""
    channels: Counter[int]
    """Images by number of channels."""
    sizes: list[tuple[int, int]]
    """The two smallest (height, width) of images."""
    highest_label: int
    """-1 where there are no labels."""
    digests: np.ndarray
    """(shards,) uint64: the first 64 bits of each shard's digest."""
    digest: str
    """SHA-256 over the fields, the digests of all shards and the filters: the identity of the samples."""

    def __post_init__(self) -> None:
        self._filters = [filters.parse(text) for text in self.filters]
        self._loaded = LruCache(self._load, INDEX_MEMORY_BYTES, lambda loaded: loaded[0].num_bytes)

    @classmethod
    def open(cls, paths: Sequence[StoragePath], filters: Sequence[str] = (), each: MapShards = map, parts: Sequence[int] = ()) -> ShardSet:
        """Opens shards, and indexes those that have no valid index. ValueError where one cannot be opened.

        `each` maps a function over many shards, results in their order; a parallel one indexes in parallel.
        """
        listed, chosen = PathList(paths), [parse_filter(text) for text in filters]
        metas = list(each(shard_index.facts, listed))
        fields, kinds = _common_fields(metas)
        wanted = {name: kinds[name] for name in fields}
        counts = _counts(listed, metas, wanted, chosen, each)
        bad, first_bad = _bad(listed, metas, wanted)
        digests = [meta["digest"] for meta in metas]
        opened = cls(
            paths=listed,
            filters=tuple(filters),
            parts=list(parts) or [len(paths)],
            fields=fields,
            kinds=kinds,
            starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            num_bytes=sum(meta["size"] for meta in metas),
            bad=bad,
            first_bad=first_bad,
            joined={path.name: meta["joined"] for path, meta in zip(listed, metas, strict=True) if meta["joined"][0]},
            filtered=sum(_usable(meta, wanted) for meta in metas) - sum(counts),
            channels=sum((Counter({int(c): n for c, n in meta["channels"].items()}) for meta in metas), Counter()),
            sizes=sorted({tuple(size) for meta in metas for size in meta["sizes"] if size != [0, 0]})[:2],
            highest_label=max((meta["highest_label"] for meta in metas), default=-1),
            digests=np.array([int(digest[:16], 16) for digest in digests], np.uint64),
            digest=hashlib.sha256(json.dumps([fields, digests, *([list(filters)] if filters else [])]).encode()).hexdigest(),
        )
        if warning := opened.about_joined():
            log.warning("%s", warning)
        return opened

    def __reduce__(self) -> tuple:
        return ShardSet, tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def facts_and_arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All of it, for a file: what fits into JSON, and plain arrays. `restore` is the inverse."""
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        paths, arrays = facts.pop("paths"), {name: facts.pop(name) for name in ("starts", "digests")}
        return facts, {**arrays, **paths.arrays()}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ShardSet:
        """The set of `facts_and_arrays`, without a look at any shard. KeyError or TypeError where they are not those of a set."""
        names = {name: arrays[name] for name in ("name_start", "name_ends", "names")}
        plain = {  # what JSON turned into something else
            "filters": tuple(facts["filters"]),
            "bad": Counter(facts["bad"]),
            "channels": Counter({int(channels): count for channels, count in facts["channels"].items()}),
            "sizes": [tuple(size) for size in facts["sizes"]],
        }
        return cls(**{**facts, **plain}, paths=PathList.of(**names), starts=arrays["starts"], digests=arrays["digests"])

    def about_joined(self) -> str:
        """A sentence on shards in which members lie behind the end of the archive; empty where there are none."""
        if not self.joined:
            return ""
        name, (members, end) = next(iter(self.joined.items()))
        more = f", and so it is in {len(self.joined) - 1:,} other shards" if len(self.joined) > 1 else ""
        return (
            f"shard {name} has {members:,} members behind the end of the archive at byte {end:,}, as tars have that were joined by cat{more}; "
            "they are read here, and other readers stop at that end: join tars by tar --concatenate"
        )

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def _wanted(self) -> dict[str, str]:
        """Kinds of the set's fields, by name."""
        return {name: self.kinds[name] for name in self.fields}

    def why_bad(self) -> str:
        """Reasons and counts in words."""
        reasons = {**self.bad, **({f"not {' and '.join(self.filters)}": self.filtered} if self.filtered else {})}
        return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "nothing, they are empty"

    def _load(self, number: int) -> tuple[shard_index.ShardIndex, np.ndarray]:
        digest = f"{self.digests[number]:016x}"
        shard = shard_index.load(self.paths[number], digest)
        rows = _rows(shard, self._wanted, self._filters)
        if not shard.meta["digest"].startswith(digest) or len(rows) != self.starts[number + 1] - self.starts[number]:
            raise ValueError(f"shard {shard.path} changed while it was in use; start again")
        return shard, rows

    def numbers(self, shard: int, name: str) -> np.ndarray:
        """One number of each usable sample of a shard, see `Filter`; nan where it has none. (n,) float64."""
        index, rows = self.rows(shard)
        return filters.numbers(index, name)[rows]

    def pixels(self, samples: np.ndarray) -> np.ndarray:
        """Height and width of the stored images of samples (B,); 0 where there is none. (B, 2) int32."""
        shards, ordinals = self.locate(samples)
        found = np.zeros((len(samples), 2), np.int32)
        for number in np.unique(shards).tolist():
            mine = shards == number
            index, rows = self.rows(number)
            found[mine] = index.pixels[rows[ordinals[mine]]]
        return found

    def all_pixels(self, each: MapShards = map) -> Iterator[np.ndarray]:
        """Height and width of all samples' images, one array (n, 2) a shard; `each` as for `open`."""
        counts = np.diff(self.starts).tolist()
        for path, count, pixels in zip(self.paths, counts, each(partial(_pixels, kinds=self._wanted, chosen=self._filters), self.paths), strict=True):
            if len(pixels) != count:
                raise ValueError(f"shard {path} changed while it was in use; start again")
            yield pixels

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers (B,) -> shard numbers (B,) and ordinals (B,), the samples' numbers among the shard's usable rows."""
        shards = np.searchsorted(self.starts, samples, side="right") - 1
        return shards, samples - self.starts[shards]

    def rows(self, shard: int) -> tuple[shard_index.ShardIndex, np.ndarray]:
        """The index of a shard and the rows in it of its usable samples, in stored order."""
        return self._loaded[shard]


def _common_fields(metas: list[dict[str, Any]]) -> tuple[list[str], dict[str, str]]:
    """Fields that at least half of all rows have, and the kind of every field; of two kinds the more frequent one."""
    have: Counter[tuple[str, str]] = Counter()
    for meta in metas:
        for mask, rows in meta["masks"]:
            have.update({(name, kind): rows for column, (name, kind) in enumerate(meta["fields"]) if mask >> column & 1})
    total = sum(rows for meta in metas for _, rows in meta["masks"])
    kinds = {name: kind for (name, kind), _ in reversed(have.most_common())}
    return sorted({name for (name, kind), rows in have.items() if 2 * rows >= total and kinds[name] == kind}), kinds


def _usable(meta: dict[str, Any], kinds: Mapping[str, str]) -> int:
    """Rows of a shard that have all fields."""
    bits = _field_bits(meta, kinds)
    return sum(rows for mask, rows in meta["masks"] if mask & bits == bits)


def _counts(paths: PathList, metas: list[dict[str, Any]], kinds: Mapping[str, str], chosen: Sequence[filters.Filter], each: MapShards) -> list[int]:
    """Usable samples of each shard. Filters need every shard's whole index."""
    if not chosen:
        return [_usable(meta, kinds) for meta in metas]
    filters.check_known(chosen, sorted({name for meta in metas for name in meta["numbers"]}))
    return list(each(partial(_count, kinds=kinds, chosen=chosen), paths))


def _bad(paths: PathList, metas: list[dict[str, Any]], kinds: Mapping[str, str]) -> tuple[Counter[str], dict[str, str]]:
    """How many samples were dropped for each reason, and the first of each as `shard:key`."""
    bad: Counter[str] = Counter()
    first: dict[str, str] = {}
    for path, meta in zip(paths, metas, strict=True):
        bad.update(meta["bad"])
        for reason, key in meta["first"].items():
            first.setdefault(reason, f"{path.name}:{key}")
        bits = _field_bits(meta, kinds)
        missing = sum(rows for mask, rows in meta["masks"] if mask < SUSPECT and mask & bits != bits)
        if missing:
            bad["missing member"] += missing
            if "missing member" not in first:
                first["missing member"] = f"{path.name}:{_first_missing(path, bits)}"
    return bad, first


def _first_missing(path: StoragePath, bits: int) -> str:
    shard = shard_index.load(path)
    return shard.key(int(np.flatnonzero((shard.masks & np.uint32(bits | SUSPECT)) != bits)[0]))


def _rows(shard: shard_index.ShardIndex, kinds: Mapping[str, str], chosen: Sequence[filters.Filter]) -> np.ndarray:
    """Usable rows of a shard: those that have all fields and pass the filters."""
    bits = np.uint32(_field_bits(shard.meta, kinds))
    whole = (shard.masks & bits) == bits
    return np.flatnonzero(whole & filters.passing(chosen, shard) if chosen else whole)


def _field_bits(meta: dict[str, Any], kinds: Mapping[str, str]) -> int:
    """Bits that a row has with all fields of these kinds; a bit beyond all columns where the shard lacks a field altogether."""
    columns = {(name, kind): column for column, (name, kind) in enumerate(meta["fields"])}
    return sum(1 << column for column in {columns.get(field, _NO_COLUMN) for field in kinds.items()})


def _count(path: StoragePath, kinds: Mapping[str, str], chosen: Sequence[filters.Filter]) -> int:
    """Usable samples of one shard."""
    shard = shard_index.load(path)
    return len(_rows(shard, kinds, chosen))


def _pixels(path: StoragePath, kinds: Mapping[str, str], chosen: Sequence[filters.Filter]) -> np.ndarray:
    """Height and width of the images of one shard's usable samples."""
    shard = shard_index.load(path)
    return shard.pixels[_rows(shard, kinds, chosen)]
