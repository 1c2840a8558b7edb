"""What frozen networks made of samples, kept on disk by sample number, so that it is made once.

    FOLDER/LAYOUT.json          name, type and shape of what a record holds: one layout for each shape that samples come in
    FOLDER/LAYOUT/00000012      a sparse file with the records of samples 12 * 1024 and on, each at its place

A record says whose it is and has a checksum: one that is missing, torn by a kill or damaged counts as absent and is written again.
So processes write and read beside each other without locks, and nothing is synced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genlib.files import open_regular, read_regular, write_atomically
from genlib.storage import why
from genlib.types import Batch

log = logging.getLogger(__name__)

_MAGIC = 0x31454C47
_HEAD = np.dtype([("magic", "<u4"), ("checksum", "<u4"), ("sample", "<i8")])
_ALIGN_BYTES = 64
_KINDS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_TAKEN = {"position", "sample", "valid", "weight", "failed", "encoded"}
_MOST_JSON_BYTES, _MOST_RECORD_BYTES, _MOST_LAYOUTS, _MOST_SIDES = 1 << 16, 1 << 30, 1024, 8
_OPEN_FILES = 128
_RESERVE_BYTES = 1 << 30
"""What is left free on the disk, for checkpoints."""
_REST_SECONDS = 30.0
"""How long a disk that could not be written is left alone."""
_FRESH_SECONDS = 2.0
"""A folder changed so lately may change again without another time stamp."""


class EncodedStore:
    """Records of `num_samples` samples in a folder, for one thread; pickled, it is opened anew."""

    def __init__(self, folder: Path, num_samples: int, shard_samples: int = 1024):
        self.folder, self.num_samples, self.shard_samples = Path(folder), num_samples, shard_samples
        self._layouts: OrderedDict[str, _Records] = OrderedDict()  # those that were of use last come last
        self._stamp, self._rest_until, self._warned = -1, 0.0, False

    def __reduce__(self) -> tuple:
        return EncodedStore, (self.folder, self.num_samples, self.shard_samples)

    def has(self, samples: np.ndarray) -> np.ndarray:
        """For which samples (B,) there is a record, (B,) bool, by its head alone; `read` looks closer."""
        found = np.zeros(len(samples), bool)
        for records in self._known():
            if found.all():
                break
            found |= records.heads(samples)
        return found

    def read(self, samples: np.ndarray) -> Batch | None:
        """What was made of the samples (B,), B rows each; None where any is absent, or they are of several layouts."""
        for records in self._known():
            if records.heads(samples[:1])[0] and (rows := records.read(samples)) is not None:
                self._layouts.move_to_end(records.name)
                return {name: torch.from_numpy(np.ascontiguousarray(rows[name])) for name in rows.dtype.names or ()}
        return None

    def write(self, samples: np.ndarray, batch: Batch, keep: np.ndarray) -> None:
        """Keeps the rows of CPU tensors that `keep` (B,) marks and that are absent. A disk that takes no more is warned of once."""
        if time.monotonic() < self._rest_until:
            return
        try:
            records = self._records(_body_of(batch))
            todo = np.flatnonzero(keep & ~records.whole(samples))
            if self.free_bytes() < len(todo) * records.dtype.itemsize + _RESERVE_BYTES:
                raise OSError(0, f"less than {_RESERVE_BYTES / 1e9:.0f} GB of the disk is free")
            records.write(samples[todo], {name: value[todo].numpy() for name, value in batch.items()})
        except OSError as error:
            self._rest_until = time.monotonic() + _REST_SECONDS
            if not self._warned:
                log.warning("%s; what is encoded is not kept while that is so", why(self.folder, error))
            self._warned = True

    def free_bytes(self) -> int:
        """Free bytes of the disk, for this user."""
        there = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        status = os.statvfs(there)
        return status.f_bavail * status.f_frsize

    @staticmethod
    def record_bytes(batch: Batch) -> int:
        """Bytes on disk of one row of such a batch."""
        return _record(_body_of(batch)).itemsize

    def share(self) -> float:
        """Share of the samples that are there, about: it looks at 256 of them."""
        numbers = np.unique(np.linspace(0, self.num_samples - 1, 256).astype(np.int64))
        return float(self.has(numbers).mean())

    def remove(self) -> None:
        """Deletes it all."""
        self._layouts.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _known(self) -> Iterator[_Records]:
        """Layouts, those of use lately first; looks for new ones where the folder changed."""
        with suppress(OSError):
            changed = os.stat(self.folder).st_mtime_ns
            if changed != self._stamp:
                self._stamp = changed if abs(time.time() - changed / 1e9) > _FRESH_SECONDS else -1
                for path in sorted(self.folder.glob("*.json"))[:_MOST_LAYOUTS]:
                    if path.stem not in self._layouts and (body := _load(path)) is not None:
                        self._layouts[path.stem] = _Records(self.folder / path.stem, body, self.shard_samples)
        return iter(list(reversed(self._layouts.values())))

    def _records(self, body: np.dtype) -> _Records:
        """Those of a layout, noted on disk where it is new."""
        content = _json_of(body)
        name = _name_of(content)
        if name not in self._layouts:
            if len(self._layouts) >= _MOST_LAYOUTS:
                raise OSError(0, f"samples come in more than {_MOST_LAYOUTS} shapes")
            write_atomically(self.folder / f"{name}.json", content)
            self._layouts[name] = _Records(self.folder / name, body, self.shard_samples)
        return self._layouts[name]


class _Records:
    """Files with the records of one layout."""

    def __init__(self, folder: Path, body: np.dtype, shard_samples: int):
        self.name, self.dtype = folder.name, _record(body)
        self._folder, self._shard_samples = folder, shard_samples
        self._files: OrderedDict[tuple[int, bool], FileIO] = OrderedDict()

    def heads(self, samples: np.ndarray) -> np.ndarray:
        """Which samples have a record that says so, (B,) bool."""
        heads = np.zeros(len(samples), _HEAD)
        for sample, raw in zip(samples.tolist(), _bytes_of(heads), strict=True):
            self._fill(sample, raw)
        return _named(heads, samples)

    def whole(self, samples: np.ndarray) -> np.ndarray:
        """Which samples have a record that is whole, (B,) bool."""
        there = self.heads(samples)
        for row in np.flatnonzero(there).tolist():
            there[row] = self.read(samples[row : row + 1]) is not None
        return there

    def read(self, samples: np.ndarray) -> np.ndarray | None:
        """Their bodies, a structured array (B,); None where any is not whole."""
        rows = np.empty(len(samples), self.dtype)
        pieces = _bytes_of(rows)
        if not all(map(self._fill, samples.tolist(), pieces)):
            return None
        whole = _named(rows["head"], samples) & (rows["head"]["checksum"] == [_checksum(raw) for raw in pieces])
        return rows["body"] if whole.all() else None

    def write(self, samples: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Puts records in place. OSError where the disk takes them not."""
        row = np.zeros(1, self.dtype)
        (raw,) = _bytes_of(row)
        for number, sample in enumerate(samples.tolist()):
            for name, value in values.items():
                row["body"][name][0] = value[number]
            row["head"]["magic"], row["head"]["sample"] = _MAGIC, sample
            row["head"]["checksum"] = _checksum(raw)
            file, offset = self._file(sample, write=True), self._offset(sample)
            assert file is not None
            if os.pwrite(file.fileno(), raw, offset) != len(raw):
                raise OSError(0, "the disk took half a record")

    def _fill(self, sample: int, raw: memoryview) -> bool:
        """Reads as much of a sample's record as `raw` holds; a file that is cut or cannot be read is a record that is not there."""
        with suppress(OSError):
            file = self._file(sample, write=False)
            return file is not None and os.preadv(file.fileno(), [raw], self._offset(sample)) == len(raw)
        return False

    def _offset(self, sample: int) -> int:
        return sample % self._shard_samples * self.dtype.itemsize

    def _file(self, sample: int, write: bool) -> FileIO | None:
        key = (sample // self._shard_samples, write)
        if key in self._files:
            self._files.move_to_end(key)
            return self._files[key]
        file = self._open(self._folder / f"{key[0]:08d}", write)
        if file is not None:
            self._files[key] = file
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        return file

    def _open(self, path: Path, write: bool) -> FileIO | None:
        """The file; None, to read, where it is not there or not of its size."""
        size = self._shard_samples * self.dtype.itemsize
        if not write:
            try:
                file = open_regular(path)
            except FileNotFoundError:
                return None
            return file if os.fstat(file.fileno()).st_size == size else None
        self._folder.mkdir(parents=True, exist_ok=True)
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")
        if os.fstat(file.fileno()).st_size != size:
            os.ftruncate(file.fileno(), size)
        return file


def _bytes_of(rows: np.ndarray) -> list[memoryview]:
    """Each of a structured array (B,) as bytes, the same memory."""
    data, size = rows.view(np.uint8).data, rows.dtype.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]


def _named(heads: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Which heads (B,) are of a record of that sample, (B,) bool."""
    return (heads["magic"] == _MAGIC) & (heads["sample"] == samples)


def _checksum(raw: memoryview) -> int:
    """Of all behind it in a record: its number and its body."""
    return zlib.crc32(raw[8:])


def _record(body: np.dtype) -> np.dtype:
    """Head and body, filled up so that records begin at whole cache lines."""
    size = -(-(_HEAD.itemsize + body.itemsize) // _ALIGN_BYTES) * _ALIGN_BYTES
    return np.dtype({"names": ["head", "body"], "formats": [_HEAD, body], "offsets": [0, _HEAD.itemsize], "itemsize": size})


def _body(fields: list[list[Any]]) -> np.dtype:
    """The structured type of [name, type, shape of a row], each field at a multiple of its element's size."""
    return np.dtype([(name, np.dtype(kind), tuple(shape)) for name, kind, shape in fields], align=True)


def _body_of(batch: Batch) -> np.dtype:
    fields = [[name, str(value.dtype).removeprefix("torch."), list(value.shape[1:])] for name, value in sorted(batch.items())]
    problem = _problem(fields)
    if problem:
        raise ValueError(f"what a task's encode returns cannot be kept: {problem}")
    return _body(fields)


def _json_of(body: np.dtype) -> bytes:
    kinds = {name: body.fields[name][0] for name in body.names or ()}  # type: ignore[index]
    return json.dumps([[name, kind.base.name, list(kind.shape)] for name, kind in kinds.items()]).encode()


def _name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _load(path: Path) -> np.dtype | None:
    """The layout in a file that anybody may have written; None where it is none."""
    try:
        content = read_regular(path, _MOST_JSON_BYTES)
        fields = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return None
    return _body(fields) if _name_of(content) == path.stem and not _problem(fields) else None


def _problem(fields: Any) -> str:
    """Why this is no layout; empty where it is one."""
    if not isinstance(fields, list) or not fields or not all(isinstance(field, list) and len(field) == 3 for field in fields):
        return "it is no list of fields"
    size, names = 0, set()
    for name, kind, shape in fields:
        if not isinstance(name, str) or not name.isidentifier() or name in _TAKEN | names:
            return f"{name!r} is no name of a field"
        if kind not in _KINDS:
            return f"{name} is of type {kind}"
        if not isinstance(shape, list) or len(shape) > _MOST_SIDES or not all(type(side) is int and side > 0 for side in shape):
            return f"{name} has the shape {shape}"
        names.add(name)
        size += np.dtype(kind).itemsize * int(np.prod([float(side) for side in shape]))
    return f"a sample takes {size / 1e9:.1f} GB" if size > _MOST_RECORD_BYTES else ""
