"""Whether shards are sound: every header, caption and label, and every pixel where that is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from cluster.parallel import LOCAL_BELOW, once_connected, parallel_map
from genlib.data.codecs.decode import REASONS
from genlib.data.index import shard_index
from genlib.data.index.storage_path import StoragePath
from genlib.data.reading.reader import SampleReader
from genlib.data.shards.shard_set import ShardSet

_AT_ONCE = 32  # samples decoded at once, which bounds memory


@dataclass(slots=True)
class MemberCounts:
    """Members of all tars: `seen` = `used` + the sum of `unused`."""

    seen: int
    used: int
    """Those of usable samples."""
    unused: Counter[str]
    """All others by reason."""
    endings: Counter[str]
    """Frequent endings of those that are not read."""


@dataclass(slots=True)
class Findings:
    """Shards, usable samples, bad ones by reason, the first of each as `shard:key`, what became of the members of the tars, and a sentence on tars
    joined by cat, if there are any."""

    shards: int
    samples: int
    bad: Counter[str]
    first: dict[str, str]
    joined: str
    members: MemberCounts

    @property
    def share(self) -> float:
        """Bad samples among all."""
        return self.bad.total() / max(1, self.bad.total() + self.samples)


@dataclass(slots=True)
class Undecodable:
    """Samples of one shard whose index is fine and whose content is not."""

    bad: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)


def verify(places: Sequence[StoragePath], decode: bool = False) -> Findings:
    """Indexes every shard anew, and with `decode` opens every member of every sample; many shards in parallel."""
    with once_connected() if decode and len(places) >= LOCAL_BELOW else nullcontext():
        found = ShardSet.open(places, each=lambda _, some: parallel_map(shard_index.build, some, label="checking"))
        findings = Findings(len(places), len(found), Counter(found.bad), dict(found.first_bad), found.about_joined(), _members(found))
        if decode:
            _decode(found, findings)
    return findings


def _members(found: ShardSet) -> MemberCounts:
    return MemberCounts(found.seen, found.used, Counter(found.unused), Counter(found.endings))


def _decode(found: ShardSet, findings: Findings) -> None:
    """Moves samples that cannot be decoded to the bad ones."""
    shards = range(len(found.paths))
    for broken in parallel_map(partial(decode_shard, found), shards, label="decoding", name=lambda at: str(found.paths[at])):
        findings.samples -= broken.bad.total()
        findings.bad += broken.bad
        for reason, count in broken.bad.items():
            findings.members.unused[reason] += count * len(found.stored)
            findings.members.used -= count * len(found.stored)
        findings.first = {**broken.first, **findings.first}


def decode_shard(shards: ShardSet, number: int) -> Undecodable:
    """Decodes all usable samples of one shard of a set."""
    broken, reader = Undecodable(), SampleReader(shards, channels=3)
    start, end = int(shards.starts[number]), int(shards.starts[number + 1])
    for at in range(start, end, _AT_ONCE):
        keys, _, failed = reader.read(np.arange(at, min(at + _AT_ONCE, end)), shards.fields)
        for row in np.flatnonzero(failed):
            reason = REASONS[failed[row] - 1]
            broken.bad[reason] += 1
            broken.first.setdefault(reason, keys[row])
    return broken
