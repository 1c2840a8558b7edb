"""Values in memory: the least recently used go, each is made once, and no thread waits for another's key."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from genlib.lru_cache import LruCache


def test_recent_values_are_bounded() -> None:
    made: list[int] = []
    recent = LruCache(lambda number: made.append(number) or number, limit=3)
    for number in [0, 1, 2, 0, 3, 0, 1]:
        assert recent[number] == number
    assert len(recent) == 3
    assert made == [0, 1, 2, 3, 1]


def test_the_limit_is_of_weights_and_one_value_always_stays() -> None:
    cache = LruCache(lambda number: "x" * number, limit=10, weigh=len)
    for number in (4, 6, 5):
        assert len(cache[number]) == number
    assert [number in cache for number in (4, 6, 5)] == [False, False, True]
    assert len(cache[99]) == 99
    assert 99 in cache
    cache.forget(99)
    assert len(cache) == 0


def test_a_value_is_made_once_while_other_keys_go_on() -> None:
    made, go = [], threading.Event()

    def make(key: str) -> str:
        made.append(key)
        assert key != "slow" or go.wait(10)
        return key

    cache = LruCache(make, limit=4)
    with ThreadPoolExecutor(3) as threads:
        slow = [threads.submit(cache.__getitem__, "slow") for _ in range(2)]
        assert threads.submit(cache.__getitem__, "fast").result(10) == "fast"
        go.set()
        assert [future.result(10) for future in slow] == ["slow", "slow"]
    assert sorted(made) == ["fast", "slow"]


def test_what_cannot_be_made_is_tried_again() -> None:
    answers = iter([ValueError("not yet"), 1])

    def make(_: int) -> int:
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    cache = LruCache(make, limit=2)
    with pytest.raises(ValueError, match="not yet"):
        cache[0]
    assert cache[0] == 1
