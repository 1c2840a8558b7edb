"""The source of batches over shards: positions to samples to one rank's tensors.

Step t of a run covers the global positions [t * size, (t + 1) * size), and each rank takes its slice of them: the number of
ranks decides who reads a sample, never which samples are read, and `start` is the whole state of a run's data.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genlib.config import DataConfig, nearest
from genlib.data.builtin import BUILTIN, prepared
from genlib.data.order import ORDER_VERSION, Order, block_samples
from genlib.data.reader import Reader
from genlib.data.shards import SPLITS, ShardSet, find_shards
from genlib.data.transforms import PlainTransform
from genlib.types import Batch, DataSpec, Samples, Transform


@dataclass(slots=True)
class _Split:
    """One split: its samples, their order, and what reads them."""

    where: str
    shards: ShardSet
    reader: Reader
    order: Order | None
    """None is stored order, once."""

    def samples(self, positions: np.ndarray, seed: int) -> np.ndarray:
        """Sample numbers at global positions (B,)."""
        return positions if self.order is None else self.order(positions, seed)


class ShardSource:
    """`genlib.types.DataSource` over local WebDataset shards; see `open_source`."""

    def __init__(self, splits: dict[str, _Split], spec: DataSpec, image_size: int = 0):
        self.spec = spec
        self._splits, self._image_size = splits, image_size

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are: "train", and "validation" where samples are held out."""
        return tuple(self._splits)

    @property
    def failures(self) -> Counter[str]:
        """Samples that could not be decoded after they were indexed, by reason, each time they were met."""
        return sum((split.reader.failures for split in self._splits.values()), Counter())

    def num_samples(self, split: str) -> int:
        """Usable samples in a split."""
        return len(self._split(split).shards)

    def require(self, field: str) -> None:
        """ValueError where the training samples have no such field: image, text, label, json or a name of the shards' own."""
        split, member = self._split("train"), {"text": "caption (.txt member)", "label": "label (.cls member)", "image": "image"}
        if field not in split.shards.fields:
            raise ValueError(
                f"data.train={split.where!r}: no sample has a {member.get(field, field)}, but this task needs one; "
                f"the samples have: {', '.join(split.shards.fields) or 'nothing'}"
            )

    def batches(
        self, split: str, size: int, *, rank: int = 0, world: int = 1, seed: int = 0, start: int = 0, transform: Transform | None = None
    ) -> Iterator[Batch]:
        """See `DataSource.batches`. Rows past a global batch's end repeat its last sample, with weight 0.

        A sample that cannot be decoded stays at its position as a stand-in of weight 0. A transform may name the `fields` it
        reads; without that attribute it gets all.
        """
        assert size > 0 <= start
        assert 0 <= rank < world
        if self._lacks(split):
            return iter(())
        chosen, rows = self._split(split), -(-size // world)
        slices = self._slices(chosen, size, slice(rank * rows, (rank + 1) * rows), start)
        transform = PlainTransform(self._image_size) if transform is None else transform
        return (self._batch(chosen, positions, inside, seed, transform) for positions, inside in slices)

    @staticmethod
    def _slices(split: _Split, size: int, rows: slice, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions of some rows of each global micro-batch, and which of them lie inside it."""
        total = len(split.shards) if split.order is None else None
        while total is None or start < total:
            end = start + size if total is None else min(start + size, total)
            mine = np.arange(start + rows.start, start + rows.stop, dtype=np.int64)
            yield np.minimum(mine, end - 1), mine < end
            start += size

    def _batch(self, split: _Split, positions: np.ndarray, inside: np.ndarray, seed: int, transform: Transform) -> Batch:
        fields = getattr(transform, "fields", None) or split.shards.fields
        present = [field for field in fields if field in split.shards.fields]
        keys, values, failed = split.reader.read(split.samples(positions, seed), present, transform.image_size)
        batch = transform(Samples(position=positions, keys=keys, fields=values, failed=failed, seed=seed))
        batch["position"] = torch.from_numpy(positions)
        batch["weight"] = torch.from_numpy((inside & ~failed).astype(np.float32))
        return batch

    def captions(self, split: str, limit: int) -> Iterator[str]:
        """Captions of the first `limit` samples in stored order; nothing where the split has none. Samples that fail are left out."""
        if self._lacks(split) or "text" not in self._split(split).shards.fields:
            return
        chosen = self._split(split)
        for sample in range(min(limit, len(chosen.shards))):
            _, values, failed = chosen.reader.read(np.array([sample]), ("text",))
            if not failed[0]:
                yield values["text"][0]

    def keys(self, split: str, positions: Sequence[int], seed: int = 0) -> list[str]:
        """Names `shard:key` of the samples at global positions, for messages."""
        chosen = self._split(split)
        return [chosen.reader.key(int(sample)) for sample in chosen.samples(np.asarray(positions, np.int64), seed)]

    def _lacks(self, split: str) -> bool:
        """Whether it is a split that a source may lack, and this one does: reading it gives nothing."""
        return split in SPLITS and split not in self._splits

    def _split(self, name: str) -> _Split:
        if name not in self._splits:
            raise ValueError(f"there are no samples of a split {name!r}; name shards with --data.train and --data.validation")
        return self._splits[name]


def _facts_beside(shards: ShardSet) -> dict[str, Any]:
    """What the writer said of the set in `dataset.json`; empty where there is no such file."""
    path = shards.paths[0].parent / "dataset.json"
    try:
        facts = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        raise ValueError(f"{path} is not JSON; delete it, or write the set again") from None
    return facts if isinstance(facts, dict) else {}


def _paths(config: DataConfig) -> dict[str, tuple[str, list[Path]]]:
    """For each split what the user named and the shards there."""
    train, held_out = (prepared(where, config.image_size) or where for where in (config.train, config.validation))
    named = {"train": (config.train, find_shards(train, "train"))}
    if held_out:
        named["validation"] = (config.validation, find_shards(held_out, "validation"))
    elif implied := find_shards(train, "validation", only_split=True):
        named["validation"] = (config.train, implied)
    return named


def open_source(config: DataConfig) -> ShardSource:
    """Opens the shards that the config names, indexing those that were not. ValueError where there are none, or none usable."""
    if not config.train:
        raise ValueError("data.train is empty; give a folder of shards, a pattern like 'dir/{00000..00099}.tar', or one of icons, shapes, digits")
    if config.readers:
        raise ValueError(f"data.readers is {config.readers}, but reader processes are not there yet; 0 reads in a thread of the worker")
    sets: dict[str, tuple[str, ShardSet]] = {}
    for split, (where, paths) in _paths(config).items():
        if not paths:
            hint = nearest(where, list(BUILTIN))
            raise ValueError(
                f"data.{split}={where!r}: there are no shards (.tar files).{hint} Check the path, or make some with jobs/prepare_data.py"
            )
        shards = ShardSet(paths)
        if not len(shards):
            raise ValueError(f"data.{split}={where!r}: {len(paths)} shards hold no usable sample; dropped: {shards.why_bad()}")
        sets[split] = (where, shards)
    return _source(sets, config)


def _source(sets: dict[str, tuple[str, ShardSet]], config: DataConfig) -> ShardSource:
    spec = replace(_spec(sets["train"][1], config.image_size), validation_name=_validation_name(sets))
    budget = (config.cache_mb << 20) // len(sets)
    splits = {}
    for name, (where, shards) in sets.items():
        order = Order(len(shards), block_samples(len(shards), shards.num_bytes)) if name == "train" else None
        splits[name] = _Split(where, shards, Reader(shards, channels=spec.channels, cache_bytes=budget), order)
    return ShardSource(splits, spec, config.image_size)


def _validation_name(sets: dict[str, tuple[str, ShardSet]]) -> str:
    """What the writer called the held-out samples; it becomes part of the names of scores."""
    name = _facts_beside(sets["validation"][1]).get("validation_name") if "validation" in sets else None
    return name if isinstance(name, str) and re.fullmatch(r"[\w.-]{1,64}", name) else "validation"


def _spec(train: ShardSet, image_size: int) -> DataSpec:
    facts = _facts_beside(train)
    one_size = train.sizes[0][0] if len(train.sizes) == 1 and train.sizes[0][0] == train.sizes[0][1] else 0
    names = tuple(facts.get("class_names", ())) or tuple(str(label) for label in range(train.highest_label + 1))
    return DataSpec(
        channels=1 if train.channels and set(train.channels) == {1} else 3,
        image_size=image_size or one_size,
        class_names=names,
        has_captions="text" in train.fields,
        num_samples=len(train),
        digest=train.digest,
        order_version=ORDER_VERSION,
    )
