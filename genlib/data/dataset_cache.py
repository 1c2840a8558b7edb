"""The opened sets of a run, in files that its driver writes and its workers read, so that no worker looks at every shard.

    FOLDER/SPLIT.set        a `ShardSet`, with what the configuration asked for
    FOLDER/train.buckets    the aspect-ratio bucket of each training sample

A file that is damaged, or was written for another configuration or by another version, counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genlib.config import DataConfig
from genlib.data.array_file import packed, unpacked
from genlib.data.shards.shard_set import ShardSet
from genlib.files import write_atomically
from genlib.json_text import json_text

NamedSets = dict[str, tuple[str, ShardSet]]
"""For each split the text by which the user named it, and its samples."""
_MOST_BYTES = 1 << 36
"""Largest file that is read; the buckets of a set of ten billion samples take less."""


def write_sets(folder: Path, config: DataConfig, sets: NamedSets, needs: Sequence[str] = ()) -> None:
    """Writes all sets of a configuration; `needs` are the fields that samples must have."""
    for split, (where, shards) in sets.items():
        facts, arrays = shards.facts_and_arrays()
        said = {"asked": _asked(config, needs), "splits": list(sets), "where": where, "state": facts}
        write_atomically(folder / f"{split}.set", packed(json_text(said), arrays))


def read_sets(folder: Path, config: DataConfig, needs: Sequence[str] = ()) -> NamedSets:
    """The sets that were written for this configuration; empty where any is absent."""
    sets, splits = {}, []
    for path in sorted(folder.glob("*.set")):
        facts, arrays = _read(path)
        try:
            if facts["asked"] != _asked(config, needs):
                return {}
            splits = facts["splits"]
            sets[path.stem] = (facts["where"], ShardSet.restore(facts["state"], arrays))
        except (KeyError, TypeError, AttributeError):
            return {}
    return sets if set(sets) == set(splits) else {}


def write_buckets(folder: Path, shards: ShardSet, sizes: Sequence[tuple[int, int]], numbers: np.ndarray) -> None:
    """Writes the bucket of each training sample (n,), its number in `sizes`."""
    write_atomically(folder / "train.buckets", packed(json_text(_buckets_of(shards, sizes)), {"numbers": numbers}))


def read_buckets(folder: Path, shards: ShardSet, sizes: Sequence[tuple[int, int]]) -> np.ndarray | None:
    """The buckets that were written for these samples and sizes (n,); None where there are none."""
    facts, arrays = _read(folder / "train.buckets")
    return arrays.get("numbers") if facts == _buckets_of(shards, sizes) else None


def remove(folder: Path) -> None:
    """Deletes what was written before."""
    for old in [*folder.glob("*.set"), *folder.glob("*.buckets")]:
        old.unlink()


def _asked(config: DataConfig, needs: Sequence[str]) -> dict[str, Any]:
    places = {"train": config.train, "validation": config.validation, "other": config.other, "filters": list(config.filters)}
    return {**places, "hold_out": config.hold_out, "needs": list(needs), "captions": [config.caption_field, config.captions]}


def _buckets_of(shards: ShardSet, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The facts on which the buckets of samples depend."""
    return {"digest": shards.digest, "sizes": [list(size) for size in sizes]}


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, np.ndarray]]:
    """Facts and arrays in a file; both empty where it is absent or not whole."""
    try:
        text, arrays = unpacked(path, lambda _: _MOST_BYTES)
        facts = json.loads(text)
    except (OSError, ValueError):
        return {}, {}
    return (facts, arrays) if isinstance(facts, dict) else ({}, {})
