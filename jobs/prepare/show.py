"""What a set of shards holds: a contact sheet, and a table of counts, sizes, captions and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from genlib.config import DataConfig
from genlib.data.order.buckets import bucket_sizes, nearest_bucket
from genlib.data.reading.reader import SampleReader
from genlib.data.shards.shard_set import ShardSet
from genlib.pictures import save_contact_sheet
from genlib.plurals import counted

_MEASURED = 10_000  # samples, spread evenly, whose captions and sizes are looked at
_AT_ONCE = 256
_MOST_LABELS = 8  # that are named


def draw_sheet(shards: ShardSet, out: Path, count: int) -> None:
    """Writes the contact sheet of `count` samples of a set, each with its caption, else its label, else its key."""
    if not len(shards) or "image" not in shards.fields:
        raise ValueError(f"{shards.paths[0]}: there is no usable sample with an image to show; dropped: {shards.why_bad()}")
    chosen = spread(len(shards), count)
    fields = [field for field in ("image", "text", "label") if field in shards.fields]
    keys, values, _ = SampleReader(shards, channels=3).read(chosen, fields)
    labels = [str(label) for label in values.get("text", values.get("label", keys))]
    save_contact_sheet(
        out, values["image"], labels, columns=16, title=f"{counted(len(shards), 'sample')}, {len(chosen)} shown", side=80, label_lines=3
    )


def spread(total: int, count: int) -> np.ndarray:
    """At most `count` numbers below `total`, spread evenly."""
    return np.unique(np.linspace(0, total - 1, count).astype(np.int64))


def table(shards: ShardSet) -> str:
    """Lines of facts; sizes and captions of at most 10,000 samples spread evenly, which the first line then says."""
    chosen = spread(len(shards), _MEASURED) if len(shards) else np.zeros(0, np.int64)
    part = "" if len(chosen) == len(shards) else f"; of {len(chosen):,} of them, spread evenly:"
    lines = [f"{counted(len(shards), 'sample')} in {counted(len(shards.paths), 'shard')}, {shards.num_bytes / 1e6:,.1f} MB{part}"]
    lines += [f"{name:<16} {value}" for name, value in _rows(shards, chosen)]
    return "\n".join(lines)


def bucket_counts(shards: ShardSet, config: DataConfig) -> str:
    """Lines of aspect-ratio buckets, width x height, with their number of samples and the share of pixels that cutting leaves of them."""
    sizes = bucket_sizes(config.image_size, config.bucket_step, config.bucket_max_aspect)
    counts, left = np.zeros(len(sizes), np.int64), np.zeros(len(sizes))
    for pixels in shards.all_pixels():
        numbers = nearest_bucket(pixels, sizes)
        ratio = pixels[:, 1] / pixels[:, 0] / np.array([width / height for width, height in sizes])[numbers]
        counts += np.bincount(numbers, minlength=len(sizes))
        left += np.bincount(numbers, np.minimum(ratio, 1 / ratio), minlength=len(sizes))
    rows = [(f"{width} x {height}", count, share) for (width, height), count, share in zip(sizes, counts, left, strict=True) if count]
    return "\n".join(
        f"{'bucket':<16} {name:<11} {count:>11,} {'sample' if count == 1 else 'samples'}, {share / count:.0%} of their pixels"
        for name, count, share in rows
    )


def _rows(shards: ShardSet, chosen: np.ndarray) -> Iterator[tuple[str, str]]:
    yield "fields", ", ".join(shards.fields) or "none"
    if shards.bad:
        yield "left out", ", ".join(f"{reason} {count:,}" for reason, count in sorted(shards.bad.items()))
    if not len(chosen):
        return
    if "image" in shards.fields:
        pixels, sizes = _stored(shards, chosen)
        yield "width", _span(pixels[:, 1], "pixels")
        yield "height", _span(pixels[:, 0], "pixels")
        yield "image", _span(sizes, "bytes")
        yield "channels", ", ".join(f"{channels}: {count:,}" for channels, count in sorted(shards.channels.items()))
    if "text" in shards.fields:
        captions = _read(shards, chosen, "text")
        yield "caption", _span([len(caption) for caption in captions], "characters")
        yield "words", _span([len(caption.split()) for caption in captions], "in a caption")
        yield "captions", counted(len(set(captions)), "different one")
    if "label" in shards.fields:
        yield "labels", _labels(Counter(_read(shards, chosen, "label")))


def _stored(shards: ShardSet, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height and width (B, 2) and bytes (B,) of the images, from the index alone."""
    numbers, places = shards.locate(chosen)
    pixels, sizes = [], []
    for number in np.unique(numbers):
        index, rows = shards.rows(int(number))
        mine = rows[places[numbers == number]]
        pixels.append(index.pixels[mine])
        sizes.append(index.spans[mine, index.fields["image"], 1])
    return np.concatenate(pixels), np.concatenate(sizes)


def _read(shards: ShardSet, chosen: np.ndarray, field: str) -> list:
    """A field's values, without those that fail."""
    reader, found = SampleReader(shards), []
    for start in range(0, len(chosen), _AT_ONCE):
        _, values, failed = reader.read(chosen[start : start + _AT_ONCE], (field,))
        found += [value for value, bad in zip(values[field], failed, strict=True) if not bad]
    return found


def _span(values: Sequence[int] | np.ndarray, unit: str) -> str:
    if not len(values):
        return "none"
    return f"{min(values):,} / {int(np.median(values)):,} / {max(values):,} {unit} (least, median, most)"


def _labels(counts: Counter[int]) -> str:
    ordered = sorted(counts.items())
    named = ", ".join(f"{label}: {count:,}" for label, count in ordered[:_MOST_LABELS])
    more = ", ..." if len(ordered) > _MOST_LABELS else ""
    return f"{counted(len(ordered), 'different one')}, {_span(list(counts.values()), 'samples each')}; {named}{more}"
