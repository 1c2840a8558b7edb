"""From images and captions of any kind to shards, in parts that are each written whole or not at all.

An input is cut into parts by its order alone, and a part becomes its own shards, `train-00012-000.tar`, `train-00012-001.tar`, ...:
sorted names are input order, and equal input gives equal bytes, whoever writes which part when. Bad samples are left out and
counted by reason.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genlib.data.codecs.captions import CAPTIONS, MISSING, as_lines, captions_of
from genlib.data.codecs.decode import LIMIT_BYTES, TWO_SIZES, BadSample, decode_label, decode_text
from genlib.data.codecs.encode import SkippedSample, file_bytes, stored_halves, stored_image, stored_mask
from genlib.data.codecs.image_header import image_header
from genlib.data.index import shard_index
from genlib.data.shards.writer import ShardWriter
from genlib.files import read_regular, write_atomically
from genlib.json_text import json_text

CONVERT_VERSION = 4
"""Changes when the same input would give other bytes."""
_MEASURED, _MOST_SAMPLES, _FILLED = 64, 65_536, 0.85  # samples to see how large they are, most samples a part, share of a shard to fill
_RECORD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class RawSample:
    """A sample as the input has it; values that are paths are read when the sample is written."""

    name: str
    """Its name in the input, for messages and for the draw of held-out samples: a path, or a row's number."""
    image: bytes | Path | None
    caption: str | bytes | Path | Sequence[Any] | None = None
    """A text, a file with it, or a list of texts: then a sample's first one goes to the member .txt, and all to .captions.txt, a line each."""
    label: int | str | None = None
    split: str = ""
    """The split, where the input knows it; otherwise it is drawn from the name."""
    problem: str = ""
    """Why the sample cannot be used, where the input knows it."""
    mask: bytes | Path | None = None
    source: Path | None = None
    """The picture of which `image` is to be made."""
    halves: bool = False
    """Whether `image` holds both, that picture to the left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionInput:
    """An input to convert: how to cut it into parts, and how to read a part, also in another process."""

    read: Callable[[Any], Iterator[RawSample]]
    """Picklable: the content of a part to its samples."""
    cut: Callable[[int], Iterable[Any]]
    """Given the most samples a part, the contents of the parts in order."""
    few: Callable[[int], Iterator[RawSample]]
    """Given a number, at most so many samples, from which their size is estimated."""
    identity: dict[str, Any]
    """Identity of the input, in JSON."""
    total: int | None = None
    """Samples, where it is known before they are read."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For `dataset.json`: class_names and the like."""
    said: dict[str, str] = field(default_factory=dict)
    """What was taken for captions, labels, splits and files, in words for the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """How parts are written."""

    out: Path
    read: Callable[[Any], Iterator[RawSample]]
    size: int = 0
    """Pixels of the shorter side to which larger images shrink; 0 keeps them."""
    shard_bytes: int = 256 << 20
    validation_share: float = 0.0


@dataclass(frozen=True, slots=True)
class InputPart:
    """A piece of the input."""

    number: int
    content: Any

    def __str__(self) -> str:
        return f"part {self.number}"


@dataclass(slots=True)
class PartRecord:
    """Result of a part, or of all parts: samples by split, bytes of shards by name, bad samples by reason, and the first of each."""

    samples: dict[str, int] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, other: PartRecord) -> None:
        """Adds a later part's counts."""
        for mine, more in ((self.samples, other.samples), (self.bad, other.bad)):
            for name, number in more.items():
                mine[name] = mine.get(name, 0) + number
        self.shards.update(other.shards)
        self.first = {**other.first, **self.first}


def members(raw: RawSample, size: int = 0) -> dict[str, bytes]:
    """Members of a sample for a shard: an image, and a source, mask, txt and cls where it has them.

    BadSample or SkippedSample where it cannot be used.
    """
    if raw.problem:
        raise SkippedSample(raw.problem)
    if raw.image is None:
        raise SkippedSample("missing image")
    data = file_bytes(raw.image, LIMIT_BYTES["image"], "image") if isinstance(raw.image, Path) else raw.image
    found = _pair(raw, data, size) if raw.halves or raw.source is not None else dict([stored_image(data, size)])
    if raw.mask is not None:
        found.update([stored_mask(file_bytes(raw.mask, LIMIT_BYTES["image"], "mask") if isinstance(raw.mask, Path) else raw.mask)])
    if raw.caption is not None:
        found.update(_captions(raw.caption))
    if raw.label is not None:
        found["cls"] = str(decode_label(str(raw.label).encode())).encode()
    return found


def _pair(raw: RawSample, data: bytes, size: int) -> dict[str, bytes]:
    """Both pictures, which are of one size."""
    if raw.halves:
        source, image = stored_halves(data, size)
    else:
        assert raw.source is not None
        given = file_bytes(raw.source, LIMIT_BYTES["image"], "partner")
        whole = [image_header(one) for _, one in (stored_image(given), stored_image(data))]
        if len({(one.height, one.width) for one in whole}) > 1:
            raise BadSample(TWO_SIZES)
        source, image = stored_image(given, size), stored_image(data, size)
    return {f"source.{source[0]}": source[1], image[0]: image[1]}


def _captions(caption: str | bytes | Path | Sequence[Any]) -> dict[str, bytes]:
    if isinstance(caption, Path):
        caption = _of_file(file_bytes(caption, LIMIT_BYTES["text"], "caption"))
    if not isinstance(caption, str | bytes):
        found = captions_of(caption)
        if not found:
            raise BadSample(MISSING)
        first = {"txt": _text(as_lines(found[:1]).encode("utf-8", "surrogateescape"))}
        return {**first, f"{CAPTIONS}.txt": _text(as_lines(found).encode("utf-8", "surrogateescape"))}
    return {"txt": _text(caption.encode("utf-8", "surrogateescape") if isinstance(caption, str) else caption)}


def _of_file(data: bytes) -> bytes:
    """A text file as UTF-8, also where a mark at its start says that it is UTF-16, as Windows may write it. BadSample for other texts with zeros."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        with suppress(UnicodeDecodeError):
            data = data.decode("utf-16").encode()
    if b"\0" in data:
        raise BadSample("non-UTF-8")
    return data


def _text(data: bytes) -> bytes:
    if len(data) > LIMIT_BYTES["text"]:
        raise BadSample("over the byte limit")
    return decode_text(data).encode()


def is_held_out(name: str, share: float) -> bool:
    """Whether a sample is for validation: drawn from its name alone, so that it stays where it is when others come or go."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") < share * 2**64


def part_samples(source: ConversionInput, size: int, shard_bytes: int) -> int:
    """Samples a part, such that it fills one shard with a margin: from what a few of them take."""
    sizes = []
    for raw in source.few(_MEASURED):
        try:
            sizes.append(sum(len(data) for data in members(raw, size).values()))
        except (BadSample, SkippedSample):
            continue
    mean = sum(sizes) / len(sizes) if sizes else 1.0
    return int(min(_MOST_SAMPLES, max(1, _FILLED * shard_bytes / mean)))


def write_part(plan: ConversionPlan, part: InputPart) -> PartRecord:
    """Writes the shards of a part and their indices, then its record: a part with a record is whole."""
    writers: dict[str, ShardWriter] = {}
    bad: Counter[str] = Counter()
    first: dict[str, str] = {}
    try:
        for number, raw in enumerate(plan.read(part.content)):
            try:
                stored = members(raw, plan.size)
            except (BadSample, SkippedSample) as reason:
                bad[str(reason)] += 1
                first.setdefault(str(reason), raw.name)
                continue
            split = raw.split or ("validation" if is_held_out(raw.name, plan.validation_share) else "train")
            if split not in writers:
                writers[split] = ShardWriter(plan.out, prefix(split, part.number), max_count=_MOST_SAMPLES, max_bytes=plan.shard_bytes, digits=3)
            writers[split].write(f"{part.number:05d}{number:06d}", stored)
        paths = [path for split in sorted(writers) for path in writers[split].commit()]
    except BaseException:
        for writer in writers.values():
            writer.discard()
        raise
    for path in paths:
        shard_index.build(path)
    counts = {split: writer.count for split, writer in sorted(writers.items())}
    record = PartRecord(counts, {path.name: path.stat().st_size for path in paths}, dict(sorted(bad.items())), first)
    write_atomically(record_path(plan.out, part.number), json_text(asdict(record), sort_keys=True).encode())
    return record


def prefix(split: str, part: int) -> str:
    """Beginning of the names of a part's shards."""
    return f"{split}-{part:05d}"


def record_path(out: Path, part: int) -> Path:
    """File of a part's record."""
    return out / "job" / f"part-{part:05d}.json"


def finished(out: Path, part: int) -> PartRecord | None:
    """The record of a part whose shards are all there."""
    try:
        record = PartRecord(**json.loads(read_regular(record_path(out, part), _RECORD_BYTES)))
        whole = all((out / name).stat().st_size == size for name, size in record.shards.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return record if whole else None
