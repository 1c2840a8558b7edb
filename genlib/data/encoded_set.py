"""What frozen networks made of the training samples: a data set like any other, whose sample i is what sample i of the original became.

    FOLDER/train-00012-000.tar      records of samples 12 * SHARD_SAMPLES and on, in order, and its index beside it
    FOLDER/dataset.json             what the set is of

The folder's name is the identity of networks and samples (`genlib.engine.encoding.identity`). A record has the key IDENTITY-SAMPLE, a member
`encoded_NAME.npy` (1, ...) for each value, and `failed.npy`: 0, or why the sample could not be decoded (1 + its number in `REASONS`), in whose
place a stand-in was encoded. A shard is written by whoever encodes its samples, and is whole or absent.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from genlib.data.index import shard_index
from genlib.data.reading.reader import SampleReader
from genlib.data.shards.shard_set import ShardSet
from genlib.data.shards.writer import ShardWriter, write_facts
from genlib.types import Batch, DataSource, Samples, Transform

SHARD_SAMPLES = 256
"""Samples of a shard: what is lost by a kill, and what a rank encodes while others wait for it."""
RESERVE_BYTES = 1 << 30
"""What is left free on the disk, for checkpoints."""
_PREFIX = "encoded_"  # a member `label.npy` or `image.npy` would be a label or an image of another kind
_NAME = re.compile(r"[a-z0-9_]{1,24}")
_FACTS = ("position", "sample", "valid", "weight", "failed")
Decode = Callable[[Iterable[np.ndarray], int, Transform | None], Iterator[Batch]]
"""`ShardSource.once`."""


class EncodedShards:
    """See `genlib.types.EncodedSet`. `decode` gives the original samples, `reread` the original source with its training samples read from here."""

    def __init__(self, folder: Path, num_samples: int, decode: Decode, reread: Callable[[ShardSet], DataSource], shard_samples: int = 0) -> None:
        self.folder, self.num_samples, self.shard_samples = folder, num_samples, shard_samples or SHARD_SAMPLES
        self._decode, self._reread = decode, reread

    @property
    def num_shards(self) -> int:
        """Shards of the whole set."""
        return -(-self.num_samples // self.shard_samples)

    def path(self, shard: int) -> Path:
        """File of a shard."""
        return self.folder / f"{self._prefix(shard)}-000.tar"

    def _prefix(self, shard: int) -> str:
        return f"train-{shard:05d}"

    def samples(self, shard: int) -> np.ndarray:
        """Sample numbers of a shard (n,)."""
        first = shard * self.shard_samples
        return np.arange(first, min(first + self.shard_samples, self.num_samples))

    def _key(self, sample: int) -> str:
        return f"{self.folder.name}-{sample:08d}"

    def missing(self) -> list[int]:
        """Shards that are absent, damaged, cut or another set's."""
        return [shard for shard in range(self.num_shards) if not self._is_whole(shard)]

    def _is_whole(self, shard: int) -> bool:
        index = shard_index.as_indexed(self.path(shard))
        keys = "".join(map(self._key, self.samples(shard).tolist())).encode()
        return index is not None and not index.meta["bad"] and index.key_bytes.tobytes() == keys

    def decoded(self, shards: Sequence[int], size: int, transform: Transform | None) -> Iterator[Batch]:
        """The original samples of some shards in batches of at most `size`, one shard after the other."""
        return self._decode(map(self.samples, shards), size, transform)

    def write(self, shard: int, made: Iterator[Batch]) -> None:
        """Writes a shard, for whose samples it takes as many batches from `made` as it needs; one that is whole meanwhile stays.

        A batch has `sample`, `failed` and the values. OSError where the disk takes it not, and where it would be left with less than 1 GB;
        ValueError where the values are no arrays that a shard can hold.
        """
        if self.free_bytes() < RESERVE_BYTES:
            raise OSError(errno.ENOSPC, f"less than {RESERVE_BYTES / 1e9:.0f} GB of the disk is free", str(self.folder))
        writer = ShardWriter(self.folder, self._prefix(shard), max_count=self.shard_samples, max_bytes=1 << 62, digits=3)
        try:
            for sample, members in _in_order(self.samples(shard), made):
                writer.write(self._key(sample), members)
            if self._is_whole(shard):
                return writer.discard()
            writer.commit()
        except BaseException:
            writer.discard()
            raise
        shard_index.build(path := self.path(shard))
        for left_over in self.folder.glob(f".{path.stem}.*.tar.part"):  # of one that was killed
            left_over.unlink(missing_ok=True)
        if not (self.folder / "dataset.json").exists():
            write_facts(self.folder, identity=self.folder.name, num_samples=self.num_samples, what="samples as frozen networks encoded them")
        if not self._is_whole(shard):
            raise ValueError(f"what the task's encode returns cannot be kept: {path} reads as {json.dumps(shard_index.facts(path)['bad'])}")

    def free_bytes(self) -> int:
        """Free bytes of the disk, for this user."""
        there = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        status = os.statvfs(there)
        return status.f_bavail * status.f_frsize

    def trial(self, made: Sequence[Batch]) -> tuple[float, float, int]:
        """Writes such batches into a folder beside and reads them: seconds to write a sample and to read it, and its bytes. OSError as `write`."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        starts = np.cumsum([0, *(len(batch["sample"]) for batch in made)]).tolist()
        numbers = [torch.arange(first, first + len(batch["sample"])) for first, batch in zip(starts, made, strict=False)]
        count = starts[-1]
        with tempfile.TemporaryDirectory(prefix=".trial-", dir=self.folder.parent) as folder:
            small = EncodedShards(Path(folder) / self.folder.name, count, self._decode, self._reread, count)
            clock = [time.perf_counter()]
            small.write(0, ({**batch, "sample": number} for number, batch in zip(numbers, made, strict=True)))
            clock.append(time.perf_counter())
            reader, stack = SampleReader(ShardSet.open([small.path(0)])), StackedArrays(small.folder)
            for number in numbers:
                keys, fields, failed = reader.read(number.numpy(), reader.shards.fields)
                stack(Samples(position=number.numpy(), keys=keys, fields=fields, failed=failed))
            clock.append(time.perf_counter())
            written, read = (np.diff(clock) / count).tolist()
            return written, read, small.path(0).stat().st_size // count

    def source(self) -> DataSource:
        """The original source, whose training samples come from here. ValueError where a shard is missing."""
        shards = ShardSet.open([self.path(shard) for shard in range(self.num_shards)])
        if len(shards) != self.num_samples:
            raise ValueError(f"{self.folder} changed while it was opened; run again, which encodes what is missing")
        return self._reread(shards)


class StackedArrays:
    """The transform of encoded samples: the values as they were, (B, ...) each, and `failed` (B,) as it was when they were encoded."""

    image_size = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, samples: Samples) -> Batch:
        if samples.failed.any():
            shard, _, key = samples.keys[int(samples.failed.argmax())].partition(":")
            path = self.folder / f"{shard}.tar"
            raise ValueError(f"{path} was damaged or lost since it was opened ({key}); delete it and run again, which encodes its samples anew")
        return {name.removeprefix(_PREFIX): torch.from_numpy(np.concatenate(rows)) for name, rows in samples.fields.items()}


def _in_order(samples: np.ndarray, made: Iterator[Batch]) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Members of each sample in the order of samples (n,); batches come in any, as with aspect-ratio buckets."""
    waiting: dict[int, dict[str, bytes]] = {}
    for sample in samples.tolist():
        while sample not in waiting:
            batch = next(made, None)
            assert batch is not None, "fewer samples than the shard has"
            waiting.update(zip(batch["sample"].tolist(), _members(batch), strict=True))
        yield sample, waiting.pop(sample)
    assert not waiting, "batches of another shard"


def _members(batch: Batch) -> Iterator[dict[str, bytes]]:
    """Members of each row by extension."""
    values = {name: value for name, value in batch.items() if name not in _FACTS}
    if odd := [name for name in values if not _NAME.fullmatch(name)]:
        raise ValueError(f"what the task's encode returns cannot be kept: {odd[0]!r} is no name of at most 24 of a-z, 0-9 and _")
    members = {f"{_PREFIX}{name}.npy": value for name, value in values.items()} | {"failed.npy": batch["failed"]}
    columns = [_npy(np.ascontiguousarray(value.cpu().numpy())) for value in members.values()]
    for row in zip(*columns, strict=True):
        yield dict(zip(members, row, strict=True))


def _npy(values: np.ndarray) -> Iterator[bytes]:
    """Each row (1, ...) of (B, ...) as a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values[:1]))
    return (file.getvalue() + row.tobytes() for row in values)
