"""Work for reader processes that go wrong on purpose, and what tests ask of the system."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genlib.types import Batch


@dataclass(frozen=True)
class Numbered:
    """Makes batches of sample numbers; rows of quarantined samples are left out.

    `trouble` says what befalls whoever reads a sample: "exit", "sleep", "raise"; at -1 it befalls when the process starts.
    """

    trouble: Mapping[int, str] = field(default_factory=dict)
    pause_seconds: float = 0.0

    def start(self, at: Callable[[int], None]) -> Callable[[np.ndarray, Mapping[int, str]], Batch]:
        self.meet(-1)
        return lambda samples, bad: self.batch(samples, bad, at)

    def batch(self, samples: np.ndarray, bad: Mapping[int, str] = {}, at: Callable[[int], None] = lambda sample: None) -> Batch:
        rows = [self.row(sample, at) for sample in samples.tolist() if sample not in bad]
        return {"sample": torch.tensor([int(row[0]) for row in rows]), "row": torch.stack(rows), "pid": torch.tensor(os.getpid())}

    def row(self, sample: int, at: Callable[[int], None]) -> torch.Tensor:
        at(sample)
        self.meet(sample)
        time.sleep(self.pause_seconds)
        return sample + torch.arange(100, dtype=torch.float64) / 1000

    def meet(self, sample: int) -> None:
        trouble = self.trouble.get(sample)
        if trouble == "exit":
            os._exit(3)
        if trouble == "sleep":
            time.sleep(1e6)
        if trouble == "raise":
            raise Refused(f"sample {sample} is refused")


class Refused(ValueError):
    """Not built in, but what it derives from is."""


@dataclass(frozen=True)
class Calling:
    """Calls a function of this module with the rest of the task."""

    def start(self, at: Callable[[int], None]) -> Callable[[tuple[str, Any], Any], Batch]:
        return lambda task, bad: globals()[task[0]](*task[1:])


def sized(number: int, size: int) -> Batch:
    """(size,) int64 and (size, 3) float32, all of one number."""
    return {"long": torch.full((size,), number), "wide": torch.full((size, 3), float(number)), "pid": torch.tensor(os.getpid())}


def summed(values: np.ndarray) -> Batch:
    """The sum of an array that was part of the task."""
    return {"sum": torch.from_numpy(values).sum()}


def odd_tensors(seed: int) -> Batch:
    """Tensors of all kinds: every width, no rows, no axes, transposed, wanting a gradient."""
    numbers = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    kinds = [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64]
    batch = {str(kind): (numbers * 10).to(kind) for kind in kinds}
    more = {"none": torch.empty(0, 3), "scalar": torch.tensor(2.5), "turned": numbers.T, "strided": numbers[:, ::2]}
    return {**batch, **more, "grad": numbers.clone().requires_grad_(), "last": numbers}


def nothing() -> Batch:
    """A batch without tensors."""
    return {}


def brings_the_compiler() -> Batch:
    """Whether what reads pictures and makes CLIP's batches of them imports torch's compiler."""
    importlib.import_module("genlib.data.source")
    importlib.import_module("genlib.models.representation.clip")
    return {"compiler": torch.tensor("torch._dynamo" in sys.modules)}


def fails_oddly() -> Batch:
    """Raises what takes more than a text."""
    b"\xff".decode()
    return {}


def chunks(count: int, size: int = 8) -> list[np.ndarray]:
    """Tasks of consecutive sample numbers."""
    return [np.arange(start, start + size) for start in range(0, count * size, size)]


def children(parent: int | None = None) -> set[int]:
    """Numbers of living processes whose parent this is."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(ppid) == (parent or os.getpid()) and state != "Z":
            found.add(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process, and it runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(fact: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether it becomes true."""
    end = time.monotonic() + seconds
    while not fact() and time.monotonic() < end:
        time.sleep(0.02)
    return fact()


def open_files() -> set[str]:
    """Numbers of open files, after a collection of garbage."""
    gc.collect()
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}") or os.path.islink(f"/proc/self/fd/{fd}")}
