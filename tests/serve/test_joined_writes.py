"""Heads of answers go out with what follows them."""

from __future__ import annotations

import asyncio
from typing import Any

from serve.http.joined_writes import JoinedWrites
from tests.serve.models import run


class Kept:
    """A transport that keeps what is written, and whether it is closed."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def written(*parts: bytes, turns: int = 0, close: bool = False) -> list[bytes]:
    async def main() -> list[bytes]:
        kept: Any = Kept()
        joined = JoinedWrites(kept, asyncio.get_running_loop())
        for part in parts:
            joined.write(part)
            for _ in range(turns):
                await asyncio.sleep(0)
        if close:
            joined.close()
            assert kept.closed
        else:
            await asyncio.sleep(0)
        return kept.writes

    return run(main())


def test_a_head_goes_out_with_the_body_or_within_a_turn_of_the_loop() -> None:
    assert written(b"head ", b"body", b"more") == [b"head body", b"more"]
    assert written(b"head ", b"body", turns=2) == [b"head ", b"body"]
    assert written(b"head") == [b"head"]
    assert written(b"head", close=True) == [b"head"]
    assert written(b"head", b"") == [b"head"]


def test_what_is_large_is_not_copied_and_what_asks_for_more_does_not_wait() -> None:
    large = b"x" * (1 << 20)
    assert written(b"head", large) == [b"head", large]
    assert written(b"HTTP/1.1 100 Continue\r\n\r\n", b"head ", b"body") == [b"HTTP/1.1 100 Continue\r\n\r\n", b"head body"]
