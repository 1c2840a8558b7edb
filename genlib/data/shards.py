"""A set of shards: found by a pattern, numbered as one list of samples."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from braceexpand import braceexpand

from genlib.data import index

log = logging.getLogger(__name__)
SPLITS = ("train", "validation")
INDEX_MEMORY_BYTES = 128 << 20
"""What a process keeps of the shards' indices; beyond it the least used are read again when needed."""

V = TypeVar("V")


class Recent(Generic[V]):
    """Values by number, made when asked for; the least recently used go when the sum of their weights passes `limit`."""

    def __init__(self, make: Callable[[int], V], limit: int, weigh: Callable[[V], int] = lambda value: 1):
        self._make, self._limit, self._weigh = make, limit, weigh
        self._values: OrderedDict[int, V] = OrderedDict()
        self._weight = 0
        self._lock = threading.RLock()  # batches are read in a thread, names for messages in another

    def __getitem__(self, number: int) -> V:
        with self._lock:
            if number in self._values:
                self._values.move_to_end(number)
                return self._values[number]
            value = self._values[number] = self._make(number)
            self._weight += self._weigh(value)
            while self._weight > self._limit and len(self._values) > 1:
                self._weight -= self._weigh(self._values.popitem(last=False)[1])
            return value

    def __len__(self) -> int:
        return len(self._values)


def _of_folder(folder: Path, split: str, only_split: bool) -> list[Path]:
    """Its `SPLIT-*.tar`; where it has none, all that no other split claims."""
    tars = sorted(folder.glob("*.tar"))
    own = [path for path in tars if path.name.startswith(f"{split}-")]
    if own or only_split:
        return own
    return [path for path in tars if not path.name.startswith(tuple(f"{other}-" for other in SPLITS))] or (tars if split != "train" else [])


def _of_pattern(pattern: str) -> list[Path]:
    try:
        named = [Path(name) for name in braceexpand(pattern)]
    except ValueError:
        raise ValueError(f"shards {pattern!r}: a brace is not closed; write for example 'dir/{{00000..00099}}.tar'") from None
    paths = [path for path in named if path.is_file()]
    if paths and len(paths) < len(named):
        absent = [path for path in named if path not in set(paths)]
        log.warning("%d of the %d shards of %s do not exist, the first is %s", len(absent), len(named), pattern, absent[0])
    return paths


def find_shards(where: str, split: str = "train", *, only_split: bool = False) -> list[Path]:
    """Shards at a folder, a tar, a pattern with braces or `*`, or several of these joined by `::`.

    A folder gives its `SPLIT-*.tar` where it has such, else all tars that no other split claims; `only_split` wants the first alone.
    """
    paths: list[Path] = []
    for part in filter(None, where.split("::")):
        if "://" in part:
            raise ValueError(f"shards {part!r}: only local paths are read so far; copy or mount them, and give the folder")
        path = Path(part).expanduser()
        if path.is_dir():
            paths += _of_folder(path, split, only_split)
        elif not only_split:
            paths += sorted(Path(name) for name in glob.glob(str(path))) if "*" in part and "{" not in part else _of_pattern(str(path))
    return paths


def all_shards(where: str) -> list[Path]:
    """Shards at a place, of every split. ValueError where there are none."""
    paths = [path for split in SPLITS for path in find_shards(where, split, only_split=split != "train")]
    if not paths:
        raise ValueError(f"{where!r}: there are no shards (.tar files); check the path, or make some with jobs/prepare_data.py")
    return list(dict.fromkeys(paths))


class ShardSet:
    """The usable samples of some shards, numbered 0 ... len - 1 in stored order.

    A field that at least half of the samples have is a field of the set, and a sample without it is bad ("missing member").
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        metas = [index.facts(path) for path in self.paths]
        self.fields, self.kinds = self._common_fields(metas)
        counts = [self._usable(meta) for meta in metas]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        self.num_bytes = sum(meta["size"] for meta in metas)
        self.bad, self.first_bad = self._bad(metas)
        self.channels = Counter({int(c): 0 for meta in metas for c in meta["channels"]})
        for meta in metas:
            self.channels.update({int(c): n for c, n in meta["channels"].items()})
        self.sizes = sorted({tuple(size) for meta in metas for size in meta["sizes"] if size != [0, 0]})[:2]
        self.highest_label = max((meta["highest_label"] for meta in metas), default=-1)
        identity = [self.fields, [meta["digest"] for meta in metas]]
        self.digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self._loaded = Recent(self._load, INDEX_MEMORY_BYTES, lambda loaded: loaded[0].num_bytes)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @staticmethod
    def _common_fields(metas: list[dict[str, Any]]) -> tuple[list[str], dict[str, str]]:
        have: Counter[str] = Counter()
        for meta in metas:
            for mask, rows in meta["masks"]:
                have.update({name: rows for column, (name, _) in enumerate(meta["fields"]) if mask >> column & 1})
        total = sum(rows for meta in metas for _, rows in meta["masks"])
        kinds = {name: kind for meta in metas for name, kind in meta["fields"]}
        return sorted(name for name, rows in have.items() if 2 * rows >= total), kinds

    def _wanted(self, meta: dict[str, Any]) -> int:
        """Bits that a usable row of the shard has; a bit beyond all columns where it lacks a field altogether."""
        columns = {name: column for column, (name, _) in enumerate(meta["fields"])}
        return sum(1 << column for column in {columns.get(name, 30) for name in self.fields})

    def _usable(self, meta: dict[str, Any]) -> int:
        wanted = self._wanted(meta)
        return sum(rows for mask, rows in meta["masks"] if mask & wanted == wanted)

    def _bad(self, metas: list[dict[str, Any]]) -> tuple[Counter[str], dict[str, str]]:
        """How many samples were dropped for each reason, and the first of each kind as `shard:key`."""
        bad: Counter[str] = Counter()
        first: dict[str, str] = {}
        for path, meta in zip(self.paths, metas, strict=True):
            bad.update(meta["bad"])
            for reason, key in meta["first"].items():
                first.setdefault(reason, f"{path.name}:{key}")
            wanted = self._wanted(meta)
            incomplete = [rows for mask, rows in meta["masks"] if mask < index.SUSPECT and mask & wanted != wanted]
            missing = sum(incomplete)
            if missing:
                bad["missing member"] += missing
                first.setdefault("missing member", f"{path.name}:{self._first_missing(path, meta)}")
        return bad, first

    def _first_missing(self, path: Path, meta: dict[str, Any]) -> str:
        shard, wanted = index.load(path), self._wanted(meta)
        return shard.key(int(np.flatnonzero((shard.masks & np.uint32(wanted | index.SUSPECT)) != wanted)[0]))

    def why_bad(self) -> str:
        """Reasons and counts in words."""
        return ", ".join(f"{reason} {count}" for reason, count in sorted(self.bad.items())) or "nothing, they are empty"

    def _load(self, number: int) -> tuple[index.Shard, np.ndarray]:
        shard = index.load(self.paths[number])
        wanted = np.uint32(self._wanted(shard.meta))
        rows = np.flatnonzero((shard.masks & wanted) == wanted)
        if len(rows) != self.starts[number + 1] - self.starts[number]:
            raise ValueError(f"shard {shard.path} changed while it was in use; start again")
        return shard, rows

    def index(self, shard: int) -> index.Shard:
        """The index of a shard."""
        return self._loaded[shard][0]

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers (B,) -> shard numbers (B,) and places (B,) among the shard's usable rows."""
        shards = np.searchsorted(self.starts, samples, side="right") - 1
        return shards, samples - self.starts[shards]

    def row(self, shard: int, place: int) -> tuple[index.Shard, int]:
        """The index of a shard and the row in it of its usable sample number `place`."""
        loaded, rows = self._loaded[shard]
        return loaded, int(rows[place])
