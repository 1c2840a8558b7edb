"""A set of shards: found by a pattern, numbered as one list of samples."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from braceexpand import braceexpand

from genlib.data.index import filters, shard_index
from genlib.data.index.storage_path import Place, Places
from genlib.data.remote import remote_file
from genlib.data.remote.remote_file import RemoteFile

log = logging.getLogger(__name__)
SPLITS = ("train", "validation")
INDEX_MEMORY_BYTES = 128 << 20
"""What a process keeps of the shards' indices; beyond it the least used are read again when needed."""

K = TypeVar("K")
V = TypeVar("V")
P = TypeVar("P", Path, RemoteFile)


class Recent(Generic[K, V]):
    """Values by key, made when asked for; the least recently used go when the sum of their weights passes `limit`."""

    def __init__(self, make: Callable[[K], V], limit: int, weigh: Callable[[V], int] = lambda value: 1):
        self._make, self._limit, self._weigh = make, limit, weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._making: dict[K, Future[V]] = {}
        self._lock = threading.Lock()  # which is not held while a value is made

    def __getitem__(self, key: K) -> V:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            mine = key not in self._making
            making = self._making.setdefault(key, Future())
        if not mine:
            return making.result()
        try:
            making.set_result(self._make(key))
        except BaseException as error:
            making.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._making[key]
                if not making.exception():
                    self._keep(key, making.result())
        return making.result()

    def _keep(self, key: K, value: V) -> None:
        self._values[key] = value
        self._weight += self._weigh(value)
        while self._weight > self._limit and len(self._values) > 1:
            self._weight -= self._weigh(self._values.popitem(last=False)[1])

    def forget(self, key: K) -> None:
        """Lets go of a value, if it is there."""
        with self._lock:
            if key in self._values:
                self._weight -= self._weigh(self._values.pop(key))

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)


def _of_folder(shards: list[P], split: str, only_split: bool) -> list[P]:
    """A folder's `SPLIT-*.tar`; where it has none, all that no other split claims."""
    own = [place for place in shards if place.name.startswith(f"{split}-")]
    if own or only_split:
        return own
    return [place for place in shards if not place.name.startswith(tuple(f"{other}-" for other in SPLITS))] or (shards if split != "train" else [])


def _of_pattern(pattern: str) -> list[Path]:
    try:
        named = [Path(name) for name in braceexpand(pattern)]
    except ValueError:
        raise ValueError(f"shards {pattern!r}: a brace is not closed; write for example 'dir/{{00000..00099}}.tar'") from None
    paths = [path for path in named if path.exists()]  # what is no regular file is refused where it is opened
    if paths and len(paths) < len(named):
        there = set(paths)
        absent = [path for path in named if path not in there]
        log.warning("%d of the %d shards of %s do not exist, the first is %s", len(absent), len(named), pattern, absent[0])
    return paths


def _remote(where: str, split: str, only_split: bool) -> list[RemoteFile]:
    """Shards at a URL: a folder of a store that can be listed, or a pattern."""
    if where.endswith(".tar") or "*" in where or "{" in where:
        return [] if only_split else remote_file.expand(where)
    found = [file for file in remote_file.expand(where.rstrip("/") + "/") if file.name.endswith(".tar")]
    return _of_folder(sorted(found, key=lambda file: file.url), split, only_split)


def _tars(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(".tar")]
    except OSError as error:
        raise ValueError(
            f"the folder {folder} cannot be listed ({error.strerror}); give this user the right to read it, or name another one"
        ) from None


def find_shards(where: str, split: str = "train", *, only_split: bool = False) -> list[Place]:
    """Shards at one place: a folder, a tar, or a pattern with braces or `*`, local or at a URL.

    A folder gives its `SPLIT-*.tar` where it has such, else all tars that no other split claims; `only_split` wants the first alone.
    """
    if remote_file.is_remote(where):
        return list(_remote(where, split, only_split))
    path = Path(where).expanduser()
    if path.is_dir():
        return list(_of_folder(_tars(path), split, only_split))
    if only_split:
        return []
    return [Path(name) for name in sorted(glob.glob(str(path)))] if "*" in where and "{" not in where else list(_of_pattern(str(path)))


def parts(where: str) -> list[str]:
    """Places joined by `::`."""
    return [part for part in where.split("::") if part]


def all_shards(where: str) -> list[Place]:
    """Shards at places joined by `::`, of every split. ValueError where there are none."""
    paths = [path for part in parts(where) for split in SPLITS for path in find_shards(part, split, only_split=split != "train")]
    if not paths:
        raise ValueError(f"{where!r}: there are no shards (.tar files); check the path, or make some with jobs/prepare_data.py")
    return list(dict.fromkeys(paths))


class ShardSet:
    """The usable samples of some shards, numbered 0 ... len - 1 in stored order.

    A field that at least half of the samples have is a field of the set, and a sample without it is bad ("missing member"). What
    does not pass the filters gets no number either. In memory are the shards' names and where their samples start; it can be
    pickled, and kept in a file.
    """

    def __init__(
        self, paths: Sequence[Place], filters: Sequence[str] = (), each: Callable[[Callable, Any], Iterable] = map, parts: Sequence[int] = ()
    ):
        """`each` maps a function over many shards, in their order: it is where indexing goes parallel. `parts` are numbers of shards, one a place."""
        self.paths, self.filters, self.parts = Places(paths), tuple(filters), list(parts) or [len(paths)]
        self._prepare()
        metas = list(each(shard_index.facts, self.paths))
        self.fields, self.kinds = self._common_fields(metas)
        counts = self._counts(metas, each)
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        self.num_bytes = sum(meta["size"] for meta in metas)
        self.bad, self.first_bad = self._bad(metas)
        self.joined = {place.name: meta["joined"] for place, meta in zip(self.paths, metas, strict=True) if meta["joined"][0]}
        """Members behind the end of the archive, and where in bytes that is, of shards that have such."""
        self.filtered = sum(map(self._usable, metas)) - len(self)
        self.channels = sum((Counter({int(c): n for c, n in meta["channels"].items()}) for meta in metas), Counter())
        self.sizes = sorted({tuple(size) for meta in metas for size in meta["sizes"] if size != [0, 0]})[:2]
        if joined := self.about_joined():
            log.warning("%s", joined)
        self.highest_label = max((meta["highest_label"] for meta in metas), default=-1)
        self.digests = np.array([int(meta["digest"][:16], 16) for meta in metas], np.uint64)
        identity = [self.fields, [meta["digest"] for meta in metas], *([list(self.filters)] if self.filters else [])]
        self.digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

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

    def _prepare(self) -> None:
        self._filters = [filters.parse(text) for text in self.filters]
        self._loaded = Recent(self._load, INDEX_MEMORY_BYTES, lambda loaded: loaded[0].num_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @staticmethod
    def _common_fields(metas: list[dict[str, Any]]) -> tuple[list[str], dict[str, str]]:
        have: Counter[tuple[str, str]] = Counter()
        for meta in metas:
            for mask, rows in meta["masks"]:
                have.update({(name, kind): rows for column, (name, kind) in enumerate(meta["fields"]) if mask >> column & 1})
        total = sum(rows for meta in metas for _, rows in meta["masks"])
        kinds = {name: kind for (name, kind), _ in reversed(have.most_common())}  # of two kinds the usual one
        return sorted({name for (name, kind), rows in have.items() if 2 * rows >= total and kinds[name] == kind}), kinds

    def _wanted(self, meta: dict[str, Any]) -> int:
        return _wanted(meta, {name: self.kinds[name] for name in self.fields})

    def _usable(self, meta: dict[str, Any]) -> int:
        wanted = self._wanted(meta)
        return sum(rows for mask, rows in meta["masks"] if mask & wanted == wanted)

    def _counts(self, metas: list[dict[str, Any]], each: Callable[[Callable, Any], Iterable]) -> list[int]:
        """Usable samples a shard; filters are asked of every shard's whole index."""
        if not self.filters:
            return [self._usable(meta) for meta in metas]
        filters.refuse_unknown(self._filters, sorted({name for meta in metas for name in meta["numbers"]}))
        return list(each(partial(_count, kinds={name: self.kinds[name] for name in self.fields}, chosen=self._filters), self.paths))

    def _bad(self, metas: list[dict[str, Any]]) -> tuple[Counter[str], dict[str, str]]:
        """How many samples were dropped for each reason, and the first of each kind as `shard:key`."""
        bad: Counter[str] = Counter()
        first: dict[str, str] = {}
        for place, meta in zip(self.paths, metas, strict=True):
            bad.update(meta["bad"])
            for reason, key in meta["first"].items():
                first.setdefault(reason, f"{place.name}:{key}")
            wanted = self._wanted(meta)
            incomplete = [rows for mask, rows in meta["masks"] if mask < shard_index.SUSPECT and mask & wanted != wanted]
            missing = sum(incomplete)
            if missing:
                bad["missing member"] += missing
                if "missing member" not in first:
                    first["missing member"] = f"{place.name}:{self._first_missing(place, meta)}"
        return bad, first

    def _first_missing(self, place: Place, meta: dict[str, Any]) -> str:
        shard, wanted = shard_index.load(place), self._wanted(meta)
        return shard.key(int(np.flatnonzero((shard.masks & np.uint32(wanted | shard_index.SUSPECT)) != wanted)[0]))

    def why_bad(self) -> str:
        """Reasons and counts in words."""
        reasons = {**self.bad, **({f"not {' and '.join(self.filters)}": self.filtered} if self.filtered else {})}
        return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "nothing, they are empty"

    def _load(self, number: int) -> tuple[shard_index.Shard, np.ndarray]:
        digest = f"{self.digests[number]:016x}"
        shard = shard_index.load(self.paths[number], digest)
        rows = _rows(shard, self._wanted(shard.meta), self._filters)
        if not shard.meta["digest"].startswith(digest) or len(rows) != self.starts[number + 1] - self.starts[number]:
            raise ValueError(f"shard {shard.place} changed while it was in use; start again")
        return shard, rows

    def index(self, shard: int) -> shard_index.Shard:
        """The index of a shard."""
        return self._loaded[shard][0]

    def numbers(self, shard: int, name: str) -> np.ndarray:
        """One number of each usable sample of a shard, see `Filter`; nan where it has none. (n,) float64."""
        index, rows = self.rows(shard)
        return filters.numbers(index, name)[rows]

    def pixels(self, samples: np.ndarray) -> np.ndarray:
        """Height and width of the stored images of samples (B,); 0 where there is none. (B, 2) int32."""
        shards, places = self.locate(samples)
        found = np.zeros((len(samples), 2), np.int32)
        for number in np.unique(shards).tolist():
            mine = shards == number
            index, rows = self.rows(number)
            found[mine] = index.pixels[rows[places[mine]]]
        return found

    def all_pixels(self, each: Callable[[Callable, Any], Iterable] = map) -> Iterator[np.ndarray]:
        """The same of all samples, one array (n, 2) a shard; `each` as for a new set."""
        kinds, counts = {name: self.kinds[name] for name in self.fields}, np.diff(self.starts).tolist()
        for place, count, pixels in zip(self.paths, counts, each(partial(_pixels, kinds=kinds, chosen=self._filters), self.paths), strict=True):
            if len(pixels) != count:
                raise ValueError(f"shard {place} changed while it was in use; start again")
            yield pixels

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers (B,) -> shard numbers (B,) and places (B,) among the shard's usable rows."""
        shards = np.searchsorted(self.starts, samples, side="right") - 1
        return shards, samples - self.starts[shards]

    def rows(self, shard: int) -> tuple[shard_index.Shard, np.ndarray]:
        """The index of a shard and the rows in it of its usable samples, in stored order."""
        return self._loaded[shard]


def _rows(shard: shard_index.Shard, wanted: int, chosen: Sequence[filters.Filter]) -> np.ndarray:
    """Rows of a shard that are whole and pass the filters."""
    whole = (shard.masks & np.uint32(wanted)) == np.uint32(wanted)
    return np.flatnonzero(whole & filters.keeps(chosen, shard) if chosen else whole)


def _wanted(meta: dict[str, Any], kinds: Mapping[str, str]) -> int:
    """Bits that a row has with all fields of these kinds; a bit beyond all columns where the shard lacks a field altogether."""
    columns = {(name, kind): column for column, (name, kind) in enumerate(meta["fields"])}
    return sum(1 << column for column in {columns.get(field, 30) for field in kinds.items()})


def _count(place: Place, kinds: Mapping[str, str], chosen: Sequence[filters.Filter]) -> int:
    """Usable samples of one shard."""
    shard = shard_index.load(place)
    return len(_rows(shard, _wanted(shard.meta, kinds), chosen))


def _pixels(place: Place, kinds: Mapping[str, str], chosen: Sequence[filters.Filter]) -> np.ndarray:
    """Height and width of the images of one shard's usable samples."""
    shard = shard_index.load(place)
    return shard.pixels[_rows(shard, _wanted(shard.meta, kinds), chosen)]
