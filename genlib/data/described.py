"""What was taken for samples, captions, labels and splits, in one line at the start of a run: a wrong guess is seen before it costs anything."""

from __future__ import annotations

from collections.abc import Iterator

from genlib.data.dataset_cache import NamedSets
from genlib.data.shards.shard_set import ShardSet
from genlib.plurals import counted

_NAMED = 3  # reasons, and fields of JSON, that the line names


def described(sets: NamedSets) -> str:
    """The line on the sets of a configuration."""
    return "data: " + "; ".join(_parts(sets))


def _parts(sets: NamedSets) -> Iterator[str]:
    train = sets["train"][1]
    yield f"{counted(len(train), 'sample')} of {_shards(train)}, fields {', '.join(train.fields) or 'none'}"
    if train.captions:
        yield f"captions from {train.captions.in_words()}"
    elif train.json_texts:
        yield f"no captions, though JSON fields have texts: {', '.join(train.json_texts[:_NAMED])}"
    else:
        yield "no captions"
    yield f"labels 0 to {train.highest_label}" if "label" in train.fields else "no labels"
    if (other := sets.get("other")) is not None:
        beside = sets.get("other_validation")
        yield f"a second set of {counted(len(other[1]), 'sample')}" + (f", held out {len(beside[1]):,}" if beside else "")
    held_out = sets["validation"][1] if "validation" in sets else None
    yield _held_out(train, held_out)
    if train.bad or train.filtered:
        yield f"left out {train.why_bad()}"
    if train.unused:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in train.unused.most_common(_NAMED))
        yield f"members {train.seen:,} = {train.used:,} used + {train.unused.total():,} not ({reasons})"


def _held_out(train: ShardSet, held_out: ShardSet | None) -> str:
    if held_out is None:
        return "nothing held out (data.validation names some)"
    if held_out.paths[0] == train.paths[0]:
        return (
            f"held out {len(held_out):,} of {len(held_out) + len(train):,} samples for scores, drawn by their keys: --data.hold_out 0 trains on all"
        )
    return f"held out {counted(len(held_out), 'sample')} of {_shards(held_out)}"


def _shards(shards: ShardSet) -> str:
    paths = shards.paths
    return f"{counted(len(paths), 'shard')} ({paths[0].name}{f' to {paths[-1].name}' if len(paths) > 1 else ''})"
