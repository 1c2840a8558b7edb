"""What a run spent its time on, beside its steps: `timeline.jsonl`, a line each for a start, a save, its seal, an evaluation, a picture.

    {"what": "start", "step": 0, "time": 1767225600.0, "seconds": 3.1, "heard": null, "world": 1, "strategy": "SingleDevice", "machine": {...}}
    {"what": "save", "step": 1000, "time": 1767225700.0, "seconds": 0.1}
    {"what": "seal", "step": 1000, "time": 1767225704.0, "seconds": 2.9, "waited": 0.0}

`time` is when it was over (seconds since 1970). A start is over with its first step, its `seconds` are those since the worker began to build the
task, and `heard` is when the run was last heard of before it. A save takes a copy of what it saves, its seal is when that is a checkpoint, and
`waited` how long steps stood still for that. Lines of steps that are done again are dropped, as those of metrics.jsonl are.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from genlib import distributed
from genlib.json_text import json_text
from genlib.storage import LineFile, cut_after

TIMELINE = "timeline.jsonl"


class Timeline:
    """That of the run in a folder; rank 0 alone writes. What cannot be written waits, and no run ends for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, LineFile(folder / TIMELINE)

    def start(self, step: int, seconds: float, **facts: Any) -> None:
        """The run has begun, or goes on, from that step; to be called before rows are dropped."""
        if distributed.rank():
            return
        heard = last_heard(self.folder)
        with suppress(OSError):
            cut_after(self.file.path, step)
        self.add("start", step, seconds, heard=heard, **facts)

    def add(self, what: str, step: int, seconds: float, **facts: Any) -> None:
        """Something is over that took so long."""
        if distributed.rank():
            return
        with suppress(OSError):  # the folder is gone, which those say who cannot do without it
            self.file.append(json_text({"what": what, "step": step, "time": time.time(), "seconds": round(seconds, 4), **facts}) + "\n")

    @contextmanager
    def timed(self, what: str, step: int) -> Iterator[None]:
        """Adds what happens inside, if it comes to its end."""
        begin = time.perf_counter()
        yield
        self.add(what, step, time.perf_counter() - begin)


def machine(device: torch.device) -> dict[str, Any]:
    """What this worker runs on."""
    facts = {"host": socket.gethostname(), "system": platform.platform(terse=True), "cpu": _cpu(), "cpus": len(os.sched_getaffinity(0))}
    if device.type == "cuda":
        return {**facts, "gpu": torch.cuda.get_device_name(device), "gpu_memory_gb": round(torch.cuda.mem_get_info(device)[1] / 1e9, 1)}
    return {**facts, "threads": torch.get_num_threads()}


def _cpu() -> str:
    """The processor's own name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def last_heard(folder: Path) -> float | None:
    """When a run in the folder last wrote a row, in seconds since 1970; None where it never did."""
    try:
        return (folder / "metrics.jsonl").stat().st_mtime
    except OSError:
        return None
