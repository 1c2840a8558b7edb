"""The source of batches over shards: positions to samples to one rank's tensors.

Step t of a run covers the global positions [t * size, (t + 1) * size), and each rank takes its slice of them: the number of
ranks decides who reads a sample, never which samples are read, and `start` is the whole state of a run's data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genlib.config import DataConfig
from genlib.data import dataset
from genlib.data.caches.encoded import EncodedStore
from genlib.data.codecs.decode import CHANGED, REASONS, UNREADABLE
from genlib.data.dataset import Each, each_here
from genlib.data.order.buckets import Buckets
from genlib.data.order.partners import Partners
from genlib.data.order.sample_order import ORDER_VERSION, Mixture, Order, block_samples
from genlib.data.reader_pool.pool import ReaderPool
from genlib.data.reading.batch_decoder import Decoding, Rows, pieces_of
from genlib.data.reading.reader import Reader
from genlib.data.shards.shard_set import SPLITS, ShardSet, parts
from genlib.data.transforms.plain import PlainTransform
from genlib.files import cache_folder, read_regular
from genlib.types import Batch, DataSpec, Encoded, Transform

log = logging.getLogger(__name__)
_LOOK = "look at the shards with `prepare_data.py verify --decode`, or raise the limit"
_FACTS_BYTES = 256 << 20  # names of four million classes
_FEW = 20
"""Failed samples that never stop a run, whatever their share."""


@dataclass(slots=True)
class Split:
    """One split: its samples, their order, and what reads them."""

    where: str
    shards: ShardSet
    reader: Reader
    order: Order | Mixture | Buckets | None
    """None is stored order, once."""
    batch: int = 1
    """Samples of the global micro-batches that were asked for last, on which the order of buckets depends."""

    def samples(self, positions: np.ndarray, seed: int, size: int) -> np.ndarray:
        """Sample numbers at global positions (B,) of global micro-batches of `size` samples."""
        if isinstance(self.order, Buckets):
            return self.order(positions, seed, size)
        return positions if self.order is None else self.order(positions, seed)

    def rows(self, size: int, mine: slice, start: int, seed: int) -> Iterator[Rows]:
        """Some rows of each global micro-batch. Where the order has blocks, a batch is dealt out by place in storage, so that a rank reads few."""
        total = len(self.shards) if self.order is None else None
        by_place = self.order is not None and self.order.block > 1
        places = np.arange(mine.start, mine.stop, dtype=np.int64)
        while total is None or start < total:
            count = size if total is None else min(size, total - start)
            kept = np.minimum(places, count - 1)
            box = self.order.size_of(start, size) if isinstance(self.order, Buckets) else None
            if by_place:
                positions = np.arange(start, start + count, dtype=np.int64)
                samples = self.samples(positions, seed, size)
                dealt = np.argsort(samples, kind="stable")[kept]
                yield Rows(positions[dealt], samples[dealt], places < count, size=box)
            else:
                yield Rows(start + kept, self.samples(start + kept, seed, size), places < count, size=box)
            start += size


def _samples_of(stored: Encoded | None, rows: Rows) -> np.ndarray:
    """All samples of the set that must be read for the rows."""
    samples = np.concatenate([rows.samples, *(samples for role, samples in rows.partners.items() if role != "other")])
    return samples if stored is None else samples[~stored.has(samples)]


class ShardSource:
    """`genlib.types.DataSource` over WebDataset shards; see `open_source`."""

    def __init__(self, splits: dict[str, Split], other: Split | None, spec: DataSpec, config: DataConfig):
        self.spec, self.failures = spec, Counter()
        """`failures`: samples that could not be decoded after they were indexed, by reason, each time they were met."""
        self._splits, self._other, self._config, self._read = splits, other, config, 0
        self._partners: dict[str, Partners] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are: "train", and "validation" where samples are held out."""
        return tuple(self._splits)

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
        self, split: str, size: int, *, rank: int = 0, world: int = 1, seed: int = 0, start: int = 0, transform: Transform | None = None,
        stored: Encoded | None = None,
    ) -> Iterator[Batch]:  # fmt: skip
        """See `DataSource.batches`. Rows past a global batch's end repeat its last sample, with weight 0.

        With buckets all images of a training batch are of one size, and `start` is a multiple of `size`; other splits are squares.
        A sample that cannot be decoded stays at its position as a stand-in of weight 0; ValueError where they are too many. A
        transform may name the `fields` it reads; without that attribute it gets all.
        """
        assert stored is None or split == "train"
        assert size > 0 <= start
        assert 0 <= rank < world
        if self._lacks(split):
            return iter(())
        chosen, each = self._split(split), -(-size // world)
        chosen.batch = size
        if isinstance(chosen.order, Buckets):
            assert start % size == 0, "a batch of a bucket is whole"
            if rank == 0:
                _warn_of_small(chosen.order, size)
        transform = PlainTransform(self._config.image_size) if transform is None else transform
        rows = chosen.rows(size, slice(rank * each, (rank + 1) * each), start, seed)
        if roles := getattr(transform, "partners", ()):
            partners = self._partners.setdefault(split, Partners(chosen.shards, self._other and self._other.shards))
            rows = (replace(some, partners={role: partners.samples(role, some.positions, some.samples, seed) for role in roles}) for some in rows)
        return self._batches(split, rows, transform, seed, stored)

    def encoded(self, identity: str, folder: str = "") -> EncodedStore:
        """Where what networks of that identity make of the training samples is kept: in `folder`, or GENLIB_CACHE/encoded."""
        root = Path(folder).absolute() if folder else cache_folder() / "encoded"
        return EncodedStore(root / identity, self.num_samples("train"))

    def once(self, samples: np.ndarray, size: int, transform: Transform | None = None) -> Iterator[Batch]:
        """Batches of at most `size` rows of the training samples with these numbers (n,), each once; positions are numbers.

        In the order given, and with buckets one bucket after the other.
        """
        transform, order = PlainTransform(self._config.image_size) if transform is None else transform, self._split("train").order
        groups = order.alike(samples) if isinstance(order, Buckets) else [(None, samples)]
        chunks = ((box, some[at : at + size]) for box, some in groups for at in range(0, len(some), size))
        return self._batches("train", (Rows(chunk, chunk, np.ones(len(chunk), bool), size=box) for box, chunk in chunks), transform, 0, None)

    def _batches(self, split: str, rows: Iterator[Rows], transform: Transform, seed: int, stored: Encoded | None) -> Iterator[Batch]:
        chosen, processes = self._split(split), self._config.readers
        decoding = self._decoding(chosen, transform, seed, stored)
        if pieces := chosen.reader.pieces:
            rows = pieces.ahead(rows, partial(_samples_of, stored), for_others=processes > 0)
        if not processes:
            readers = (chosen.reader, self._other and self._other.reader)
            yield from (self._counted(split, decoding.batch(readers, some)) for some in rows)
            return
        pool = ReaderPool(decoding, processes, timeout_seconds=self._config.reader_timeout_seconds)
        try:
            yield from (self._counted(split, batch) for batch in pool.run(rows))
        finally:
            pool.close()

    def _decoding(self, split: Split, transform: Transform, seed: int, stored: Encoded | None) -> Decoding:
        other = self._other.shards if self._other else None
        fields = tuple(getattr(transform, "fields", None) or dict.fromkeys([*split.shards.fields, *(other.fields if other else ())]))
        cache = _cache_bytes(self._config, len(self._splits)) // max(1, self._config.readers)
        return Decoding(split.shards, other, fields, transform, seed, self.spec.channels, cache, _disk_bytes(self._config), stored)

    def _counted(self, split: str, batch: Batch) -> Batch:
        """The batch without `failed`, which is counted and named; ValueError where too many samples fail."""
        failed = batch.pop("failed").numpy()
        self._read += len(failed)
        if failed.any():
            name, reader = "", self._split(split).reader
            for row in np.flatnonzero(failed).tolist():
                reason, sample = REASONS[int(failed[row]) - 1], int(batch["sample"][row])
                name = f"{reader.key(sample)} of {reader.where(sample)}"
                if not self.failures[reason]:
                    log.warning("sample %s cannot be read (%s): it counts for nothing; further ones are only counted", name, reason)
                self.failures[reason] += 1
            self._refuse_many(name)
        return batch

    def _refuse_many(self, last: str) -> None:
        count = self.failures.total()
        if count > max(_FEW, self._config.max_failed * self._read):
            reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(self.failures.items()))
            changed = self.failures[CHANGED] + self.failures[UNREADABLE] > count / 2
            way_out = "bring the shards back, or begin a new run, which indexes them as they are" if changed else _LOOK
            raise ValueError(
                f"{count} of the {self._read} samples read could not be decoded ({reasons}), the last {last}; data.max_failed allows "
                f"{self._config.max_failed:g} of them: {way_out}"
            )

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
        """Names `shard:key` of the samples at global positions, for messages; with buckets in micro-batches as they were last asked for."""
        chosen = self._split(split)
        return [chosen.reader.key(int(sample)) for sample in chosen.samples(np.asarray(positions, np.int64), seed, chosen.batch)]

    def _lacks(self, split: str) -> bool:
        """Whether it is a split that a source may lack, and this one does: reading it gives nothing."""
        return split in SPLITS and split not in self._splits

    def _split(self, name: str) -> Split:
        if name not in self._splits:
            raise ValueError(f"there are no samples of a split {name!r}; name shards with --data.train and --data.validation")
        return self._splits[name]


def _warn_of_small(buckets: Buckets, size: int) -> None:
    if few := buckets.fewer_than(size):
        names = ", ".join(f"{width}x{height}" for width, height in few)
        log.warning("buckets %s have fewer samples than a batch of %d, which then holds some of them more than once", names, size)


def _facts_beside(shards: ShardSet) -> dict[str, Any]:
    """What the writer said of the set in `dataset.json`; empty where there is no such file."""
    first = shards.paths[0]
    if not isinstance(first, Path):
        return {}
    path = first.parent / "dataset.json"
    try:
        facts = json.loads(read_regular(path, _FACTS_BYTES))
        names = facts.get("class_names", [])
        good = isinstance(names, list) and all(isinstance(name, str) for name in names)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); delete it, or write the set again") from None
    except (ValueError, AttributeError, RecursionError):
        facts, good = {}, False
    if not good:
        raise ValueError(f"{path} is no JSON object, or its class_names are no list of texts; delete it, or write the set again")
    return facts


def open_source(config: DataConfig, kept: Path | None = None, each: Each = each_here) -> ShardSource:
    """Opens the shards that the config names, indexing those that were not. ValueError where there are none, or none usable.

    `kept` is the folder of `genlib.data.dataset.keep`; `each` maps a function over shards that are not indexed.
    """
    sets = dataset.open_sets(config, kept, each)
    return _source(sets, config, dataset.open_buckets(config, *sets["train"], kept, each))


def _source(sets: dict[str, tuple[str, ShardSet]], config: DataConfig, buckets: Buckets | None) -> ShardSource:
    spec = replace(_spec(sets["train"][1], config), validation_name=_validation_name(sets))
    cache, splits = _cache_bytes(config, len(sets)), {}
    for name, (where, shards) in sets.items():
        reader = Reader(shards, channels=spec.channels, cache_bytes=cache, pieces=pieces_of(shards, _disk_bytes(config)))
        splits[name] = Split(where, shards, reader, (buckets or _order(shards, where, config)) if name == "train" else None)
    spec = replace(spec, vector_size=_vector_size(splits["train"]))
    return ShardSource(splits, splits.pop("other", None), spec, config)


def _cache_bytes(config: DataConfig, sets: int) -> int:
    """Memory for decoded samples of each of so many sets."""
    return (config.cache_mb << 20) // sets


def _disk_bytes(config: DataConfig) -> int:
    return int(config.disk_cache_gb * 2**30)


def _order(shards: ShardSet, where: str, config: DataConfig) -> Order | Mixture:
    """One order of all samples, or with weights one of each place's, mixed."""
    if not config.weights:
        return Order(len(shards), block_samples(len(shards), shards.num_bytes))
    orders, first = [], 0
    for place, count in zip(parts(where), shards.parts, strict=True):
        samples = int(shards.starts[first + count] - shards.starts[first])
        if not samples:
            raise ValueError(f"data.train={place!r}: no usable sample; dropped from all places: {shards.why_bad()}")
        orders.append(Order(samples, block_samples(samples, shards.num_bytes * samples // len(shards))))
        first += count
    return Mixture(orders, config.weights)


def _validation_name(sets: dict[str, tuple[str, ShardSet]]) -> str:
    """What the writer called the held-out samples; it becomes part of the names of scores."""
    name = _facts_beside(sets["validation"][1]).get("validation_name") if "validation" in sets else None
    return name if isinstance(name, str) and re.fullmatch(r"[\w.-]{1,64}", name) else "validation"


def _spec(train: ShardSet, config: DataConfig) -> DataSpec:
    facts = _facts_beside(train)
    one_size = train.sizes[0][0] if len(train.sizes) == 1 and train.sizes[0][0] == train.sizes[0][1] else 0
    names = tuple(facts.get("class_names", ())) or tuple(str(label) for label in range(train.highest_label + 1))
    return DataSpec(
        channels=1 if train.channels and set(train.channels) == {1} else 3,
        image_size=(config.image_size or one_size) if "image" in train.fields else 0,
        class_names=names,
        has_captions="text" in train.fields,
        num_samples=len(train),
        bucket_step=config.bucket_step,
        digest=_digest(train, config),
        order_version=ORDER_VERSION,
    )


def _vector_size(train: Split) -> int:
    """Numbers in the first sample's `.npy` member."""
    if "array" not in train.shards.fields:
        return 0
    _, values, _ = train.reader.read(np.zeros(1, np.int64), ("array",))
    return values["array"][0].size


def _digest(train: ShardSet, config: DataConfig) -> str:
    """Identity of the samples, and of how several places are mixed."""
    if not config.weights:
        return train.digest
    return hashlib.sha256(json.dumps([train.digest, train.parts, config.weights]).encode()).hexdigest()
