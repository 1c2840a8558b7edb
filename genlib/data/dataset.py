"""The sets of samples that a configuration names: found, and opened or taken from the cache of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from genlib.config import DataConfig, nearest
from genlib.data import dataset_cache
from genlib.data.builtin.catalog import BUILTIN, prepared
from genlib.data.dataset_cache import NamedSets
from genlib.data.index.storage_path import StoragePath
from genlib.data.order.buckets import BucketOrder, bucket_numbers, bucket_sizes
from genlib.data.shards.discovery import find_shards, split_paths
from genlib.data.shards.shard_set import MapShards, ShardSet
from genlib.plurals import counted

A = TypeVar("A")
B = TypeVar("B")
_THREADS = 16  # for shards at URLs, where time goes by waiting
_REPORT_SECONDS = 5.0
_LEAST_TO_SHARE, _MOST_HELD_OUT = 50, 5_000
"""Samples from which on some are held out, and how many at most."""


class NoShards(ValueError):
    """There are none at a path as this machine sees it; another may."""


def map_here(function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """`map`, in parallel where the items lie at URLs; after some seconds it reports its progress on stderr."""
    begin = reported = time.monotonic()
    with ThreadPoolExecutor(_THREADS if len(items) and not isinstance(items[0], Path) else 1) as threads:
        for count, result in enumerate(threads.map(function, items), 1):
            yield result
            now = time.monotonic()
            if now - reported > _REPORT_SECONDS:
                left = (now - begin) / count * (len(items) - count)
                print(f"looking through {count:,} of {counted(len(items), 'shard')}, {left:.0f} s left", file=sys.stderr, flush=True)
                reported = now


def open_sets(config: DataConfig, each: MapShards = map_here, needs: Sequence[str] = ()) -> NamedSets:
    """Opens the sets that a configuration names. ValueError where there are none, or none usable.

    `needs` are the fields that samples of training and validation must have; empty are those that most of them have.
    """
    if not config.train:
        raise ValueError(f"data.train is empty; give a folder of shards, a pattern like 'dir/{{00000..00099}}.tar', or one of {', '.join(BUILTIN)}")
    sets, found = {}, _find(config)
    for split, (where, groups) in found.items():
        for path, group in zip(split_paths(where), groups, strict=False):
            if not group:
                hint = nearest(path, list(BUILTIN))
                raise NoShards(
                    f"data.{split}={path!r}: there are no shards (.tar files).{hint} Check the path, or make some with `python jobs/prepare_data.py`"
                )
        paths = [path for group in groups for path in group]
        how = {} if split.startswith("other") else {"needs": needs, "caption_field": config.caption_field, "captions": config.captions}
        parts = [len(group) for group in groups]
        shards = ShardSet.open(paths, config.filters if split == "train" else (), each, parts, **how)
        if not len(shards):
            raise ValueError(
                f"data.{split}={where!r}: {counted(len(paths), 'shard holds', 'shards hold')} no usable sample; dropped: {shards.why_bad()}"
            )
        sets[split] = (where, shards)
        if split == "train" and "validation" not in found and config.hold_out and not is_builtin(config) and len(shards) >= _LEAST_TO_SHARE:
            share = f"{min(config.hold_out, _MOST_HELD_OUT / len(shards)):.6g}"
            chosen = {name: (*config.filters, f"draw{sign}{share}") for name, sign in (("train", ">="), ("validation", "<"))}
            both = {name: (where, ShardSet.open(paths, filters, each, parts, **how)) for name, filters in chosen.items()}
            if all(len(part) for _, part in both.values()):
                sets |= both
                both["train"][1].held_out(both["validation"][1])
    return sets


def open_buckets(config: DataConfig, where: str, shards: ShardSet, cached: Path | None = None, each: MapShards = map_here) -> np.ndarray | None:
    """The bucket of each training sample (n,), see `bucket_order`; None where the configuration wants no buckets."""
    if not config.bucket_step:
        return None
    if "image" not in shards.fields:
        raise ValueError(f"data.bucket_step is {config.bucket_step}, but the samples of data.train={where!r} have no images; leave it at 0")
    known = dataset_cache.read_buckets(cached, shards, sizes_of(config)) if cached else None
    return bucket_numbers(shards, sizes_of(config), each) if known is None else known


def sizes_of(config: DataConfig) -> list[tuple[int, int]]:
    """Sizes (width, height) of a configuration's aspect-ratio buckets."""
    return bucket_sizes(config.image_size, config.bucket_step, config.bucket_max_aspect)


def bucket_order(config: DataConfig, shards: ShardSet, numbers: np.ndarray) -> BucketOrder:
    """The training samples in batches of one bucket each, by the bucket of each sample (n,)."""
    return BucketOrder(sizes_of(config), numbers, shards.num_bytes)


def is_builtin(config: DataConfig) -> bool:
    """Whether any set is a built-in one, which may be written again between two commands."""
    return any(part in BUILTIN for where in (config.train, config.validation, config.other) for part in split_paths(where))


def _find(config: DataConfig) -> dict[str, tuple[str, list[list[StoragePath]]]]:
    """For each split the text by which the user named it, and the shards at each path. Held-out samples may lie beside the training ones."""
    fields = {split: getattr(config, split) for split in ("train", "validation", "other")}
    named = {split: (where, _folders(where, config.image_size)) for split, where in fields.items() if where}
    found = {split: (where, [find_shards(path, "train" if split == "other" else split) for path in paths]) for split, (where, paths) in named.items()}
    if "validation" not in found:
        beside = [find_shards(path, "validation", only_split=True) for path in named["train"][1]]
        if any(beside):
            found["validation"] = (config.train, [group for group in beside if group])
    if "other" in named and any(beside := [find_shards(path, "validation", only_split=True) for path in named["other"][1]]):
        found["other_validation"] = (config.other, [group for group in beside if group])
    return found


def _folders(where: str, image_size: int) -> list[str]:
    """The paths in a text, with the folder of a built-in set in the place of its name."""
    return [prepared(part, image_size) or part for part in split_paths(where)]
