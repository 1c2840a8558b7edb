"""The `DataSpec` of a set, from the indices of its shards and the `dataset.json` beside them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from genlib.config import DataConfig
from genlib.data.order.sample_order import ORDER_VERSION
from genlib.data.reading.reader import SampleReader
from genlib.data.shards.shard_set import ShardSet
from genlib.files import read_regular
from genlib.types import DataSpec

_FACTS_BYTES = 256 << 20  # names of four million classes


def spec_of(train: ShardSet, config: DataConfig, other: ShardSet | None = None) -> DataSpec:
    """Facts of the training samples, and of the second set beside them; the caller adds `validation_name` and `vector_size`.

    Pictures of both sets, and both of a pair, have the same number of channels.
    """
    grey = "source" not in train.fields and all(some is None or (some.channels and set(some.channels) == {1}) for some in (train, other))
    facts = _facts_beside(train)
    one_size = train.sizes[0][0] if len(train.sizes) == 1 and train.sizes[0][0] == train.sizes[0][1] else 0
    names = tuple(facts.get("class_names", ())) or tuple(str(label) for label in range(train.highest_label + 1))
    return DataSpec(
        channels=1 if grey else 3,
        image_size=(config.image_size or one_size) if "image" in train.fields else 0,
        class_names=names,
        has_captions="text" in train.fields,
        has_source="source" in train.fields,
        has_other=other is not None,
        several_captions=train.captions is not None and train.captions.draw == "random",
        json_texts=() if "text" in train.fields else tuple(train.json_texts),
        num_samples=len(train),
        bucket_step=config.bucket_step,
        digest=_digest(train, config, other),
        order_version=ORDER_VERSION,
    )


def validation_name(held_out: ShardSet | None) -> str:
    """The writer's name for the held-out samples, a part of the names of scores."""
    name = _facts_beside(held_out).get("validation_name") if held_out else None
    return name if isinstance(name, str) and re.fullmatch(r"[\w.-]{1,64}", name) else "validation"


def vector_size(train: SampleReader) -> int:
    """Numbers in the first sample's `.npy` member."""
    if "array" not in train.shards.fields:
        return 0
    _, values, _ = train.read(np.zeros(1, np.int64), ("array",))
    return values["array"][0].size


def _digest(train: ShardSet, config: DataConfig, other: ShardSet | None) -> str:
    """Identity of the samples, of those beside them, and of how several paths are mixed."""
    if not config.weights and other is None:
        return train.digest
    mixed = [train.parts, config.weights] if config.weights else []
    beside = [] if other is None else ["other", other.digest]
    return hashlib.sha256(json.dumps([train.digest, *mixed, *beside]).encode()).hexdigest()


def _facts_beside(shards: ShardSet) -> dict[str, Any]:
    """Facts that the writer of the set left in `dataset.json`; empty where there is no such file."""
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
