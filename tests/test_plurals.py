"""Numbers in sentences agree with what they count."""

from __future__ import annotations

import pytest

from genlib.plurals import counted


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("shard",), "0 shards"),
        (1, ("shard",), "1 shard"),
        (1200, ("shard",), "1,200 shards"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
        (1, ("line is", "lines are"), "1 line is"),
    ],
)
def test_counted(count: int, words: tuple[str, ...], said: str) -> None:
    assert counted(count, *words) == said
