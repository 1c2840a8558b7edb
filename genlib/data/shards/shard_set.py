"""A set of shards, numbered as one list of samples."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from genlib.data.index import filters, shard_index
from genlib.data.index.filters import parse as parse_filter
from genlib.data.index.storage_path import PathList, StoragePath
from genlib.data.shards import usable
from genlib.data.shards.caption_source import CaptionSource, Choice, caption_source, text_fields
from genlib.data.shards.usable import MapShards, Wanted
from genlib.lru_cache import LruCache
from genlib.plurals import counted

log = logging.getLogger(__name__)
INDEX_MEMORY_BYTES = 128 << 20
"""Memory for the shards' indices in a process; the least recently used are read again when they are needed."""


@dataclass(eq=False)
class ShardSet:
    """The usable samples of some shards, numbered 0 ... len - 1 in stored order.

    A field that at least half of the samples have is a field of the set, and a sample without it is bad ("missing member"); where it is said
    which fields are needed, what counts is these. What does not pass the filters gets no number either. In memory are the shards' names and
    where their samples start; it can be pickled, and written to a file.
    """

    paths: PathList
    filters: tuple[str, ...]
    parts: list[int]
    """Numbers of shards, one for each path that the user named."""
    fields: list[str]
    """What a sample gives; `text` is its caption, wherever that lies."""
    kinds: dict[str, str]
    """Kind of value by field, see `KINDS`."""
    stored: list[str]
    """Fields of the members that every sample has."""
    common: list[str]
    """Fields that at least half of all samples have, needed or not."""
    captions: CaptionSource | None
    """Where captions lie; None where there are none."""
    json_texts: list[str]
    """JSON fields in which any sample has a text."""
    starts: np.ndarray
    """(shards + 1,) int64: number of the first sample of each shard, and of all samples."""
    num_bytes: int
    """Size of all shards."""
    bad: Counter[str]
    """Bad samples, which have no number, by reason."""
    first_bad: dict[str, str]
    """`shard:key` of the first such sample, by reason."""
    joined: dict[str, list[int]]
    """By name of a shard that has members behind the end of the archive: how many, and the byte of that end."""
    filtered: int
    """Samples that do not pass the filters."""
    seen: int
    """Members of all tars, and links in them."""
    unused: Counter[str]
    """Members that are of no sample, by reason."""
    endings: Counter[str]
    """Frequent endings of members that are not read."""
    channels: Counter[int]
    """Images by number of channels."""
    sizes: list[tuple[int, int]]
    """The two smallest (height, width) of images."""
    highest_label: int
    """-1 where there are no labels."""
    digests: np.ndarray
    """(shards,) uint64: the first 64 bits of each shard's digest."""
    digest: str
    """SHA-256 over the fields, the digests of all shards and the filters: the identity of the samples."""

    def __post_init__(self) -> None:
        kinds = {name: self.kinds[name] for name in self.stored}
        self._wanted = Wanted(kinds, self.captions.key if self.captions else "", tuple(map(parse_filter, self.filters)))
        self._loaded = LruCache(self._load, INDEX_MEMORY_BYTES, lambda loaded: loaded[0].num_bytes)

    @classmethod
    def open(
        cls,
        paths: Sequence[StoragePath],
        filters: Sequence[str] = (),
        each: MapShards = map,
        parts: Sequence[int] = (),
        needs: Sequence[str] = (),
        caption_field: str = "",
        captions: Choice = "auto",
    ) -> ShardSet:
        """Opens shards, and indexes those that have no valid index. ValueError where one cannot be opened.

        `each` maps a function over many shards, results in their order; a parallel one indexes in parallel. `needs` are the fields
        without which a sample does not count, see `TaskConfig.fields`; empty those that at least half of all samples have.
        """
        listed = PathList(paths)
        metas = list(each(shard_index.facts, listed))
        common, kinds = _common_fields(metas)
        needs = [_first_of(name.split("|"), common) for name in needs]
        source = caption_source(caption_field, captions, {*common, *(set(needs) & kinds.keys())}, kinds, metas)
        if needs and "text" not in needs:  # what nobody reads, nobody misses
            source = None
        stored = _stored_fields(metas, common, kinds, needs, source)
        wanted = Wanted({name: kinds[name] for name in stored}, source.key if source else "", tuple(map(parse_filter, filters)))
        if wanted.caption_key and any(one.name == "caption_bytes" for one in wanted.filters):
            where = f"the captions are the field {wanted.caption_key!r} of JSON members"
            raise ValueError(f"data.filters: caption_bytes is known of captions in text members, and {where}; leave that filter out")
        counted = usable.counts(listed, metas, wanted, each)
        bad, first_bad = usable.bad(listed, metas, wanted, counted)
        digests, counts = [meta["digest"] for meta in metas], [passing for _, passing in counted]
        opened = cls(
            paths=listed,
            filters=tuple(filters),
            parts=list(parts) or [len(paths)],
            fields=sorted({*stored, *(["text"] if source else [])}),
            kinds={**kinds, **({"text": "text"} if source else {})},
            stored=stored,
            common=common,
            captions=source,
            json_texts=text_fields(metas),
            starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            num_bytes=sum(meta["size"] for meta in metas),
            bad=bad,
            first_bad=first_bad,
            joined={path.name: meta["joined"] for path, meta in zip(listed, metas, strict=True) if meta["joined"][0]},
            filtered=sum(captioned - passing for captioned, passing in counted),
            seen=sum(meta["members"] for meta in metas),
            unused=usable.unused(metas, wanted, counted),
            endings=sum((Counter(meta["endings"]) for meta in metas), Counter()),
            channels=sum((Counter({int(c): n for c, n in meta["channels"].items()}) for meta in metas), Counter()),
            sizes=sorted({tuple(size) for meta in metas for size in meta["sizes"] if size != [0, 0]})[:2],
            highest_label=max((meta["highest_label"] for meta in metas), default=-1),
            digests=np.array([int(digest[:16], 16) for digest in digests], np.uint64),
            digest=_digest(common, digests, filters, _choices(metas, common, kinds, wanted, source)),
        )
        if warning := opened.about_joined():
            log.warning("%s", warning)
        return opened

    def __reduce__(self) -> tuple:
        return ShardSet, tuple(getattr(self, each.name) for each in dataclasses.fields(self))

    def facts_and_arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All of it, for a file: what fits into JSON, and plain arrays. `restore` is the inverse."""
        facts = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        paths, arrays = facts.pop("paths"), {name: facts.pop(name) for name in ("starts", "digests")}
        return {**facts, "captions": self.captions and dataclasses.astuple(self.captions)}, {**arrays, **paths.arrays()}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ShardSet:
        """The set of `facts_and_arrays`, without a look at any shard. KeyError or TypeError where they are not those of a set."""
        names = {name: arrays[name] for name in ("name_start", "name_ends", "names")}
        plain = {  # what JSON turned into something else
            "filters": tuple(facts["filters"]),
            "captions": facts["captions"] and CaptionSource(*facts["captions"]),
            **{name: Counter(facts[name]) for name in ("bad", "unused", "endings")},
            "channels": Counter({int(channels): count for channels, count in facts["channels"].items()}),
            "sizes": [tuple(size) for size in facts["sizes"]],
        }
        return cls(**{**facts, **plain}, paths=PathList.of(**names), starts=arrays["starts"], digests=arrays["digests"])

    def about_joined(self) -> str:
        """A sentence on shards in which members lie behind the end of the archive; empty where there are none."""
        if not self.joined:
            return ""
        name, (members, end) = next(iter(self.joined.items()))
        more = f", and so it is in {counted(len(self.joined) - 1, 'other shard')}" if len(self.joined) > 1 else ""
        return (
            f"shard {name} has {counted(members, 'member')} behind the end of the archive at byte {end:,}, as of tars joined by cat{more}; "
            "they are read here, and other readers stop at that end: join tars by tar --concatenate"
        )

    def held_out(self, others: ShardSet) -> None:
        """Forgets the samples of the same shards that another set has: they are not left out."""
        self.filtered -= len(others)
        self.seen -= others.used
        self.unused = +(self.unused - Counter({usable.FILTERED: others.used}))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def used(self) -> int:
        """Members of all samples: `seen` less those that are `unused`."""
        return len(self) * len(self.stored)

    def member_of(self, field: str) -> str:
        """The field of the shards in which a field of the set lies: of captions it may be another one."""
        return self.captions.member if field == "text" and self.captions else field

    def why_bad(self) -> str:
        """Reasons and counts in words: of samples, or of members where they make up no samples at all."""
        wanted = [one for one in self.filters if not one.startswith("draw")] or self.filters
        reasons = {**self.bad, **({f"not {' and '.join(wanted)}": self.filtered} if self.filtered else {})}
        if reasons or not self.unused:
            return _in_words(reasons) or "nothing, they are empty"
        endings = f" ({', '.join(self.endings)})" if self.endings else ""
        return f"members, {_in_words(self.unused)}{endings}; `prepare_data.py folder` reads more kinds of images"

    def _load(self, number: int) -> tuple[shard_index.ShardIndex, np.ndarray]:
        digest = f"{self.digests[number]:016x}"
        shard = shard_index.load(self.paths[number], digest)
        rows = self._wanted.rows(shard)
        if not shard.meta["digest"].startswith(digest) or len(rows) != self.starts[number + 1] - self.starts[number]:
            raise ValueError(f"shard {shard.path} changed while it was in use; start again")
        return shard, rows

    def numbers(self, shard: int, name: str) -> np.ndarray:
        """One number of each usable sample of a shard, see `Filter`; nan where it has none. (n,) float64."""
        index, rows = self.rows(shard)
        return filters.numbers(index, name)[rows]

    def pixels(self, samples: np.ndarray) -> np.ndarray:
        """Height and width of the stored images of samples (B,); 0 where there is none. (B, 2) int32."""
        shards, ordinals = self.locate(samples)
        found = np.zeros((len(samples), 2), np.int32)
        for number in np.unique(shards).tolist():
            mine = shards == number
            index, rows = self.rows(number)
            found[mine] = index.pixels[rows[ordinals[mine]]]
        return found

    def all_pixels(self, each: MapShards = map) -> Iterator[np.ndarray]:
        """Height and width of all samples' images, one array (n, 2) a shard; `each` as for `open`."""
        counts = np.diff(self.starts).tolist()
        for path, count, pixels in zip(self.paths, counts, each(partial(usable.pixels, wanted=self._wanted), self.paths), strict=True):
            if len(pixels) != count:
                raise ValueError(f"shard {path} changed while it was in use; start again")
            yield pixels

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers (B,) -> shard numbers (B,) and ordinals (B,), the samples' numbers among the shard's usable rows."""
        shards = np.searchsorted(self.starts, samples, side="right") - 1
        return shards, samples - self.starts[shards]

    def rows(self, shard: int) -> tuple[shard_index.ShardIndex, np.ndarray]:
        """The index of a shard and the rows in it of its usable samples, in stored order."""
        return self._loaded[shard]


def _common_fields(metas: list[dict[str, Any]]) -> tuple[list[str], dict[str, str]]:
    """Fields that at least half of all rows have, and the kind of every field; of two kinds the more frequent one."""
    have: Counter[tuple[str, str]] = Counter()
    for meta in metas:
        for mask, rows in meta["masks"]:
            have.update({(name, kind): rows for column, (name, kind) in enumerate(meta["fields"]) if mask >> column & 1})
    total = sum(rows for meta in metas for _, rows in meta["masks"])
    kinds = {name: kind for (name, kind), _ in reversed(have.most_common())}
    return sorted({name for (name, kind), rows in have.items() if 2 * rows >= total and kinds[name] == kind}), kinds


def _first_of(names: Sequence[str], common: Sequence[str]) -> str:
    """The first that most samples have; where they have none, the first."""
    return next((name for name in names if name in common), names[0])


def _stored_fields(
    metas: Sequence[Mapping[str, Any]], common: Sequence[str], kinds: Mapping[str, str], needs: Sequence[str], source: CaptionSource | None
) -> list[str]:
    """Fields of the members that a sample must have. Of those that are not needed, the ones that every sample with the needed ones has."""
    own = [source.member] if source else []
    if not needs:
        return sorted({*common, *own})
    needed = {*own, *(name for name in needs if name in kinds and (name != "text" or not source))}
    wanted, everywhere = Wanted({name: kinds[name] for name in needed}), set(common) - needed
    for meta in metas:
        need, columns = wanted.bits(meta), {name: column for column, (name, kind) in enumerate(meta["fields"]) if kinds[name] == kind}
        masks = [mask for mask, _ in meta["masks"] if mask & need == need]
        everywhere = {name for name in everywhere if all(name in columns and mask >> columns[name] & 1 for mask in masks)}
    return sorted(needed | everywhere)


def _choices(
    metas: Sequence[Mapping[str, Any]], common: Sequence[str], kinds: Mapping[str, str], wanted: Wanted, source: CaptionSource | None
) -> list[Any]:
    """What beside the shards decides which samples there are and what they say; empty for the usual."""
    chosen: list[Any] = []
    usual = Wanted({name: kinds[name] for name in common})
    if sum(map(usual.complete, metas)) != sum(map(wanted.complete, metas)):
        chosen += ["needs", sorted(wanted.kinds)]
    if source and source != CaptionSource():
        chosen += ["captions", *dataclasses.astuple(source)]
    return chosen


def _digest(fields: Sequence[str], digests: Sequence[str], filters: Sequence[str], choices: Sequence[Any]) -> str:
    parts = [list(fields), list(digests), *([list(filters)] if filters else []), *([list(choices)] if choices else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _in_words(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
