"""The sets of samples that a configuration names: found, indexed, and kept in a file that the workers of a run share."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from genlib.config import DataConfig, nearest
from genlib.data.array_file import packed, unpacked
from genlib.data.builtin.catalog import BUILTIN, prepared
from genlib.data.index.storage_path import Place, Places
from genlib.data.order.buckets import Buckets, bucket_numbers, bucket_sizes
from genlib.data.shards.shard_set import ShardSet, find_shards, parts
from genlib.files import write_atomically

A = TypeVar("A")
B = TypeVar("B")
Each = Callable[[Callable, Any], Iterable]
"""Maps a function over many shards, results in their order."""
_THREADS = 16  # for shards at URLs, where time goes by waiting
_SECONDS = 5.0
_MOST_BYTES = 1 << 36
"""Of a file of `keep`; the numbers of a set of ten billion samples take less."""


def each_here(function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """`map`, side by side where items lie at URLs; what takes long says how far it is."""
    begin = said = time.monotonic()
    with ThreadPoolExecutor(_THREADS if len(items) and not isinstance(items[0], Path) else 1) as threads:
        for count, result in enumerate(threads.map(function, items), 1):
            yield result
            now = time.monotonic()
            if now - said > _SECONDS:
                left = (now - begin) / count * (len(items) - count)
                print(f"looking through {count:,} of {len(items):,} shards, {left:.0f} s left", file=sys.stderr, flush=True)
                said = now


def _named(config: DataConfig) -> dict[str, tuple[str, list[str]]]:
    """For each split what the user named, and the places that this means."""
    fields = {split: getattr(config, split) for split in ("train", "validation", "other")}
    return {split: (where, _places(where, config.image_size)) for split, where in fields.items() if where}


def _places(where: str, image_size: int) -> list[str]:
    return [prepared(part, image_size) or part for part in parts(where)]


def _found(config: DataConfig) -> dict[str, tuple[str, list[list[Place]]]]:
    """For each split what the user named, and the shards at each of its places; held-out samples may lie beside the training ones."""
    named = _named(config)
    found = {
        split: (where, [find_shards(place, "train" if split == "other" else split) for place in places]) for split, (where, places) in named.items()
    }
    if "validation" not in found:
        implied = [find_shards(place, "validation", only_split=True) for place in named["train"][1]]
        if any(implied):
            found["validation"] = (config.train, [group for group in implied if group])
    return found


def open_sets(config: DataConfig, kept: Path | None = None, each: Each = each_here) -> dict[str, tuple[str, ShardSet]]:
    """For each split what the user named and its samples; ValueError where there are none, or none usable.

    What `keep` wrote into the folder `kept` for the same configuration is taken as it is.
    """
    if not config.train:
        raise ValueError(f"data.train is empty; give a folder of shards, a pattern like 'dir/{{00000..00099}}.tar', or one of {', '.join(BUILTIN)}")
    if kept and (sets := _kept(config, kept)):
        return sets
    sets = {}
    for split, (where, groups) in _found(config).items():
        for place, group in zip(parts(where), groups, strict=False):
            if not group:
                hint = nearest(place, list(BUILTIN))
                raise ValueError(
                    f"data.{split}={place!r}: there are no shards (.tar files).{hint} Check the path, or make some with jobs/prepare_data.py"
                )
        paths = [path for group in groups for path in group]
        shards = ShardSet(paths, config.filters if split == "train" else (), each, [len(group) for group in groups])
        if not len(shards):
            raise ValueError(f"data.{split}={where!r}: {len(paths)} shards hold no usable sample; dropped: {shards.why_bad()}")
        sets[split] = (where, shards)
    return sets


def _asked(config: DataConfig) -> dict[str, Any]:
    return {"train": config.train, "validation": config.validation, "other": config.other, "filters": list(config.filters)}


def keep(config: DataConfig, folder: Path, each: Each = each_here) -> None:
    """Opens the sets and keeps what they hold, so that workers need not look at every shard; nothing to do for built-in sets."""
    for old in [*folder.glob("*.set"), *folder.glob("*.buckets")]:
        old.unlink()
    if any(part in BUILTIN for where in (config.train, config.validation, config.other) for part in parts(where)):
        return
    sets = open_sets(config, each=each)
    for split, (where, shards) in sets.items():
        state = shards.__getstate__()
        paths, arrays = state.pop("paths"), {name: state.pop(name) for name in ("starts", "digests")}
        facts = {"asked": _asked(config), "splits": list(sets), "where": where, "state": state}
        write_atomically(folder / f"{split}.set", packed(json.dumps(facts), {**arrays, **paths.arrays()}))
    if config.bucket_step:
        shards = sets["train"][1]
        numbers = {"numbers": _numbers(config, *sets["train"], each)}
        write_atomically(folder / "train.buckets", packed(json.dumps(_bucketed(config, shards)), numbers))


def open_buckets(config: DataConfig, where: str, shards: ShardSet, kept: Path | None = None, each: Each = each_here) -> Buckets | None:
    """The training samples by aspect-ratio bucket; None where the config wants none. What `keep` wrote for the same samples is taken as it is."""
    if not config.bucket_step:
        return None
    numbers = _kept_numbers(kept / "train.buckets", _bucketed(config, shards)) if kept else None
    return Buckets(_sizes(config), _numbers(config, where, shards, each) if numbers is None else numbers, shards.num_bytes)


def _sizes(config: DataConfig) -> list[tuple[int, int]]:
    return bucket_sizes(config.image_size, config.bucket_step, config.bucket_max_aspect)


def _numbers(config: DataConfig, where: str, shards: ShardSet, each: Each) -> np.ndarray:
    if "image" not in shards.fields:
        raise ValueError(f"data.bucket_step is {config.bucket_step}, but the samples of data.train={where!r} have no images; leave it at 0")
    return bucket_numbers(shards, _sizes(config), each)


def _bucketed(config: DataConfig, shards: ShardSet) -> dict[str, Any]:
    """What the numbers of buckets depend on."""
    return {"digest": shards.digest, "sizes": [list(size) for size in _sizes(config)]}


def _kept_numbers(path: Path, wanted: dict[str, Any]) -> np.ndarray | None:
    found = _unpacked(path)
    return found[1]["numbers"] if found and found[0] == wanted else None


def _unpacked(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """What `keep` wrote into a file; None where it is not there or not whole."""
    try:
        text, arrays = unpacked(path, lambda _: _MOST_BYTES)
        return json.loads(text), arrays
    except (OSError, ValueError):
        return None


def _kept(config: DataConfig, folder: Path) -> dict[str, tuple[str, ShardSet]]:
    sets, facts = {}, {}
    for path in sorted(folder.glob("*.set")):
        found = _unpacked(path)
        if found is None or found[0]["asked"] != _asked(config):
            return {}
        facts = found[0]
        sets[path.stem] = (facts["where"], _restored(facts["state"], found[1]))
    return sets if sets and set(sets) == set(facts["splits"]) else {}


def _restored(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> ShardSet:
    shards = ShardSet.__new__(ShardSet)
    counts = {"bad": Counter(state["bad"]), "channels": Counter({int(c): n for c, n in state["channels"].items()})}
    lists = {"sizes": [tuple(size) for size in state["sizes"]], "filters": tuple(state["filters"])}
    numbers = {name: arrays.pop(name) for name in ("starts", "digests")}
    shards.__setstate__({**state, **counts, **lists, **numbers, "paths": Places.of(**arrays)})
    return shards
