"""Batches ahead of the step: a thread reads, weights rows and copies to the device while the step before runs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator

import torch

from genlib import distributed
from genlib.types import Batch

DEPTH = 2
"""Micro-batches that wait for the step; one more waits for a place among them."""


class Prefetcher:
    """Iterates over micro-batches on the device; `wait_seconds` is the time that `next` has waited for data so far.

    `size` is that of the global micro-batch.
    """

    def __init__(self, batches: Iterator[Batch], size: int, device: torch.device, depth: int = DEPTH) -> None:
        self.wait_seconds = 0.0
        self._batches, self._size, self._device = batches, size, device
        self._queue: queue.Queue = queue.Queue(depth)
        self._stop = threading.Event()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = threading.Thread(target=self._fill, daemon=True, name="prefetcher")
        self._thread.start()

    def _fill(self) -> None:
        try:
            for batch in self._batches:
                self._put(self._move(with_weight(batch, self._size)))
                if self._stop.is_set():
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            if isinstance(self._batches, Generator):
                self._batches.close()  # its reader processes end now, not when it is collected

    def _put(self, item) -> None:
        while not self._stop.is_set():
            try:
                # a time limit, or `close` would not be heard while nobody takes from a full queue
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def _move(self, batch: Batch) -> tuple[Batch, torch.cuda.Event | None]:
        if self._stream is None:
            return batch, None
        with torch.cuda.stream(self._stream):
            moved = {name: value.pin_memory().to(self._device, non_blocking=True) for name, value in batch.items()}
            event = torch.cuda.Event()
            event.record(self._stream)
            return moved, event

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        item = self._queue.get()
        self.wait_seconds += time.perf_counter() - begin
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        batch, event = item
        if event is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(event)
            for value in batch.values():
                # allocated on the copying stream, which would hand the memory out again while the step still reads it
                value.record_stream(stream)
        return batch

    def close(self) -> None:
        """Stops the thread; what it read ahead is dropped, the order knows no such thing as read."""
        self._stop.set()
        self._thread.join(timeout=10)


def with_weight(batch: Batch, size: int) -> Batch:
    """A rank's share of a global micro-batch of `size` samples with its `weight` (B,), see `Batch`."""
    # Ranks have equally many rows, together more than `size` where it does not divide: a mean over rows would divide by too many.
    rows = len(batch["valid"])
    return {**batch, "weight": batch["valid"].float() * (rows * distributed.world_size() / size)}
