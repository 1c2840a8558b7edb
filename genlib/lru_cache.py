"""Values in memory by key, the least recently used of which go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Values by key, made when asked for; the least recently used go when the sum of their weights passes `limit`.

    For many threads: a value is made once however many ask for it, and other keys do not wait meanwhile. `functools.lru_cache`
    promises neither, and knows no weights.
    """

    def __init__(self, make: Callable[[K], V], limit: int, weigh: Callable[[V], int] = lambda value: 1):
        self._make, self._limit, self._weigh = make, limit, weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._making: dict[K, Future[V]] = {}
        self._lock = threading.Lock()  # released while a value is made

    def __getitem__(self, key: K) -> V:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            mine = key not in self._making
            making = self._making.setdefault(key, Future())
        if not mine:
            return making.result()
        try:
            making.set_result(self._make(key))
        except BaseException as error:
            making.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._making[key]
                if not making.exception():
                    self._add(key, making.result())
        return making.result()

    def _add(self, key: K, value: V) -> None:
        self._values[key] = value
        self._weight += self._weigh(value)
        while self._weight > self._limit and len(self._values) > 1:
            self._weight -= self._weigh(self._values.popitem(last=False)[1])

    def forget(self, key: K) -> None:
        """Removes a value, if it is there."""
        with self._lock:
            if key in self._values:
                self._weight -= self._weigh(self._values.pop(key))

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)
