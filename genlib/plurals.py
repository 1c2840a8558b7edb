"""Numbers of things in sentences."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """`1 shard`, `1,200 shards`; `many` is the plural that is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
