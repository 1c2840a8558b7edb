"""The source of batches over shards: positions to samples to one rank's tensors.

Step t of a run covers the global positions [t * size, (t + 1) * size), and each rank takes its slice of them: the number of
ranks decides who reads a sample, never which samples are read, and `start` is the whole state of a run's data.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from genlib.config import DataConfig, color
from genlib.data import dataset_cache
from genlib.data.codecs.decode import CHANGED, FOUND_WHILE_READING, REASONS, UNREADABLE
from genlib.data.dataset import bucket_order, is_builtin, map_here, open_buckets, open_sets, sizes_of
from genlib.data.dataset_cache import NamedSets
from genlib.data.described import described
from genlib.data.encoded_set import EncodedShards, StackedArrays
from genlib.data.order.buckets import BucketOrder
from genlib.data.order.mixture import MixtureOrder
from genlib.data.order.partners import PartnerSampler
from genlib.data.order.sample_order import SampleOrder, block_samples
from genlib.data.reader_pool.pool import ReaderPool
from genlib.data.reading.batch_decoder import BatchDecoder, BatchRows, segments_of
from genlib.data.reading.reader import SampleReader
from genlib.data.shards.discovery import SPLITS, split_paths
from genlib.data.shards.shard_set import MapShards, ShardSet
from genlib.data.spec import spec_of, validation_name, vector_size
from genlib.data.split import Split
from genlib.data.transforms.plain import PlainTransform
from genlib.files import cache_folder
from genlib.types import Batch, DataSpec, Transform, UnreadableSample

log = logging.getLogger(__name__)
_LOOK = "look at the shards with `prepare_data.py verify --decode`, or raise the limit"
_FEW = 20
"""Failed samples that never stop a run, whatever their share."""


class ShardSource:
    """`genlib.types.DataSource` over WebDataset shards; see `open_source`."""

    def __init__(self, splits: dict[str, Split], others: dict[str, Split], spec: DataSpec, config: DataConfig):
        """`others` are the samples of the second set beside those of each split; held-out ones only where it has any."""
        self.described = ""
        """What was taken for captions, labels and splits."""
        self.spec, self.failures = spec, Counter()
        """`failures`: samples that could not be decoded after they were indexed, by reason, each time they were met."""
        self._splits, self._others, self._config, self._read = splits, others, config, 0
        self._partners: dict[str, PartnerSampler] = {}

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
                f"the samples have: {', '.join(split.shards.common) or 'nothing'}{self.spec.caption_hint if field == 'text' else ''}"
            )

    def batches(
        self, split: str, size: int, *, rank: int = 0, world: int = 1, seed: int = 0, start: int = 0, transform: Transform | None = None
    ) -> Iterator[Batch]:
        """See `DataSource.batches`. Rows past a global batch's end repeat its last sample, and are not `valid`.

        With buckets all images of a training batch are of one size, and `start` is a multiple of `size`; other splits are squares.
        A sample that cannot be decoded stays at its position as a stand-in that is not `valid`; ValueError where they are too many. A
        transform may name the `fields` it reads; without that attribute it gets all.
        """
        assert size > 0 <= start
        assert 0 <= rank < world
        if self._lacks(split):
            return iter(())
        chosen, other, each = self._split(split), self._others.get(split), -(-size // world)
        if isinstance(chosen.order, BucketOrder):
            assert start % size == 0, "a batch of a bucket is whole"
            if rank == 0:
                _warn_of_small(chosen.order, size)
        transform = PlainTransform(self._config.image_size) if transform is None else transform
        rows = chosen.rows(size, slice(rank * each, (rank + 1) * each), start, seed)
        if roles := getattr(transform, "partners", ()):
            partners = self._partners.setdefault(split, PartnerSampler(chosen.shards, other and other.shards))
            rows = (replace(some, partners={role: partners.samples(role, some.positions, some.samples, seed) for role in roles}) for some in rows)
        reader = chosen.reader
        if chosen.encoded is not None:
            reader, transform = chosen.encoded, StackedArrays(Path(chosen.encoded.where(0)).parent)  # type: ignore[arg-type]
        cache = _cache_bytes(self._config, len(self._splits))
        decoder = self._decoder(reader.shards, other, transform, seed, cache, draws=chosen.order is not None)
        return self._batches(reader, other, rows, decoder, partial(self._counted, split))

    def encoded_set(self, identity: str, folder: str = "") -> EncodedShards:
        """See `DataSource.encoded_set`."""
        root = Path(folder).absolute() if folder else cache_folder() / "encoded"
        return EncodedShards(root / identity, self.num_samples("train"), self.once, self._with_encoded)

    def _with_encoded(self, shards: ShardSet) -> ShardSource:
        """This source, whose training batches are of encoded samples, by the same numbers in the same order."""
        reader = SampleReader(shards, cache_bytes=_cache_bytes(self._config, len(self._splits)))
        train = replace(self._split("train"), encoded=reader)
        return ShardSource({**self._splits, "train": train}, self._others, self.spec, self._config)

    def once(self, groups: Iterable[np.ndarray], size: int, transform: Transform | None = None) -> Iterator[Batch]:
        """Batches of at most `size` rows of the training samples with the numbers of each group (n,); positions are numbers.

        One group after the other, in the order given, and with buckets one bucket after the other. They have `failed` (B,), see
        `SampleReader.read`. UnreadableSample where that is for a reason that may pass.
        """
        split, transform = self._split("train"), PlainTransform(self._config.image_size) if transform is None else transform
        background = color(self._config.background)
        reader = SampleReader(split.shards, channels=self.spec.channels, background=background, segments=split.reader.segments)  # without a cache
        decoder = self._decoder(reader.shards, None, transform, 0, 0, draws=False)
        return self._batches(reader, None, _rows_once(groups, size, split.order), decoder, self._counted_once)

    def _batches(
        self, reader: SampleReader, other: Split | None, rows: Iterator[BatchRows], decoder: BatchDecoder, counted: Callable[[Batch], Batch]
    ) -> Iterator[Batch]:
        processes = self._config.readers
        if reader.segments:
            rows = reader.segments.ahead(rows, BatchRows.to_read, for_others=processes > 0)
        if not processes:
            readers = (reader, other and other.reader)
            yield from (counted(decoder.decode(readers, some)) for some in rows)
            return
        pool = ReaderPool(decoder, processes, timeout_seconds=self._config.reader_timeout_seconds)
        try:
            yield from (counted(batch) for batch in pool.run(rows))
        finally:
            pool.close()

    def _decoder(self, shards: ShardSet, beside: Split | None, transform: Transform, seed: int, cache: int, draws: bool) -> BatchDecoder:
        other = beside.shards if beside else None
        fields = tuple(getattr(transform, "fields", None) or dict.fromkeys([*shards.fields, *(other.fields if other else ())]))
        cache //= max(1, self._config.readers)  # each reader process has a cache of its own
        channels, background = self.spec.channels, color(self._config.background)
        return BatchDecoder(shards, other, fields, transform, seed, channels, background, cache, _disk_bytes(self._config), draws)

    def _counted_once(self, batch: Batch) -> Batch:
        """As `_counted`, with `failed`."""
        failed = batch["failed"]
        batch = {**self._counted("train", batch), "failed": failed}
        if passing := [row for row, number in enumerate(failed.tolist()) if number and REASONS[number - 1] in FOUND_WHILE_READING]:
            reader, sample = self._split("train").reader, int(batch["sample"][passing[0]])
            reason = REASONS[int(failed[passing[0]]) - 1]
            raise UnreadableSample(f"sample {reader.key(sample)} of {reader.where(sample)} cannot be read ({reason}); bring it back or leave it out")
        return batch

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
                    log.warning("sample %s cannot be read (%s): it counts for nothing; further ones are counted alone", name, reason)
                self.failures[reason] += 1
            self._check_failures(name)
        return batch

    def _check_failures(self, last: str) -> None:
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
        """Captions of the first `limit` samples in stored order, of several the first; nothing where the split has none. Samples that fail are
        left out."""
        if self._lacks(split) or "text" not in self._split(split).shards.fields:
            return
        chosen = self._split(split)
        for sample in range(min(limit, len(chosen.shards))):
            _, values, failed = chosen.reader.read(np.array([sample]), ("text",))
            if not failed[0]:
                yield values["text"][0]

    def keys(self, split: str, positions: Sequence[int], size: int, *, seed: int = 0) -> list[str]:
        """See `DataSource.keys`."""
        chosen = self._split(split)
        return [chosen.reader.key(int(sample)) for sample in chosen.samples(np.asarray(positions, np.int64), seed, size)]

    def _lacks(self, split: str) -> bool:
        """Whether it is a split that a source may lack, and this one does: reading it gives nothing."""
        return split in SPLITS and split not in self._splits

    def _split(self, name: str) -> Split:
        if name not in self._splits:
            raise ValueError(f"there are no samples of a split {name!r}; name shards with --data.train and --data.validation")
        return self._splits[name]


def _rows_once(groups: Iterable[np.ndarray], size: int, order: SampleOrder | MixtureOrder | BucketOrder | None) -> Iterator[BatchRows]:
    """Rows of the samples of each group, see `ShardSource.once`."""
    for group in groups:
        for bucket_size, samples in order.by_bucket(group) if isinstance(order, BucketOrder) else [(None, group)]:
            for chunk in (samples[at : at + size] for at in range(0, len(samples), size)):
                yield BatchRows(chunk, chunk, np.ones(len(chunk), bool), bucket_size=bucket_size)


def _warn_of_small(buckets: BucketOrder, size: int) -> None:
    if few := buckets.fewer_than(size):
        names = ", ".join(f"{width}x{height}" for width, height in few)
        log.warning("buckets %s have fewer samples than a batch of %d, which then holds some of them more than once", names, size)


def open_source(config: DataConfig, cached: Path | None = None, each: MapShards = map_here, needs: Sequence[str] = ()) -> ShardSource:
    """Opens the shards that the config names, indexing those that were not. ValueError where there are none, or none usable.

    `cached` is the folder of `open_and_cache`; `each` maps a function over shards that are not indexed; `needs` see `TaskConfig.fields`.
    """
    sets = (dataset_cache.read_sets(cached, config, needs) if cached else {}) or open_sets(config, each, needs)
    return _source(sets, config, open_buckets(config, *sets["train"], cached, each))


def open_and_cache(config: DataConfig, folder: Path, each: MapShards = map_here, needs: Sequence[str] = ()) -> ShardSource:
    """Opens the shards on the driver of a run, and caches them for the `open_source` of its workers. ValueError as there.

    Built-in sets are not cached. If the folder cannot be written, every worker looks at every shard.
    """
    with suppress(OSError):
        dataset_cache.remove(folder)
    sets = open_sets(config, each, needs)
    numbers = open_buckets(config, *sets["train"], each=each)
    with suppress(OSError):
        if not is_builtin(config):
            dataset_cache.write_sets(folder, config, sets, needs)
            if numbers is not None:
                dataset_cache.write_buckets(folder, sets["train"][1], sizes_of(config), numbers)
    return _source(sets, config, numbers)


def _source(sets: NamedSets, config: DataConfig, numbers: np.ndarray | None) -> ShardSource:
    held_out = sets["validation"][1] if "validation" in sets else None
    other = sets["other"][1] if "other" in sets else None
    spec = replace(spec_of(sets["train"][1], config, other), validation_name=validation_name(held_out))
    cache, splits, background = _cache_bytes(config, len(sets)), {}, color(config.background)
    for name, (where, shards) in sets.items():
        segments = segments_of(shards, _disk_bytes(config))
        reader = SampleReader(shards, channels=spec.channels, background=background, cache_bytes=cache, segments=segments)
        splits[name] = Split(where, shards, reader, _order(shards, where, config, numbers) if name == "train" else None)
    spec = replace(spec, vector_size=vector_size(splits["train"].reader))
    others = {split: splits.pop(name) for split, name in (("train", "other"), ("validation", "other_validation")) if name in splits}
    source = ShardSource(splits, {"validation": others["train"], **others} if others else {}, spec, config)
    source.described = described(sets)
    return source


def _cache_bytes(config: DataConfig, sets: int) -> int:
    """Memory for decoded samples of each set."""
    return (config.cache_mb << 20) // sets


def _disk_bytes(config: DataConfig) -> int:
    return int(config.disk_cache_gb * 2**30)


def _order(shards: ShardSet, where: str, config: DataConfig, numbers: np.ndarray | None) -> SampleOrder | MixtureOrder | BucketOrder:
    """One order of all samples, with buckets by the bucket of each (n,), or with weights one order for each path, mixed."""
    if numbers is not None:
        return bucket_order(config, shards, numbers)
    if not config.weights:
        return SampleOrder(len(shards), block_samples(len(shards), shards.num_bytes))
    orders, first = [], 0
    for path, count in zip(split_paths(where), shards.parts, strict=True):
        samples = int(shards.starts[first + count] - shards.starts[first])
        if not samples:
            raise ValueError(f"data.train={path!r}: no usable sample; dropped from all paths: {shards.why_bad()}")
        orders.append(SampleOrder(samples, block_samples(samples, shards.num_bytes * samples // len(shards))))
        first += count
    return MixtureOrder(orders, config.weights)
