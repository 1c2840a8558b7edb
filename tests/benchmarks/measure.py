"""How benchmarks compare: CPU seconds of one thread, the sides by turns, the median of the rounds' ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU seconds of this process for one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def ratios(ours: Callable[[], object], reference: Callable[[], object], rounds: int) -> list[float]:
    """CPU seconds of ours over the reference's, one entry a round; both run once before."""
    ours(), reference()
    return [cpu_seconds(ours) / cpu_seconds(reference) for _ in range(rounds)]


def report(name: str, values: list[float], *, must: float | None, **facts: object) -> None:
    """One JSON line: the median ratio, its lowest and highest round, and what it must not exceed, if anything."""
    spread = [round(min(values), 3), round(max(values), 3)]
    print(json.dumps({"name": name, "ratio": round(statistics.median(values), 3), "spread": spread, "must": must, **facts}), flush=True)


@contextmanager
def older_commit() -> Iterator[Path]:
    """A checkout of the commit that BENCH_OLD names."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "old")
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(old), os.environ.get("BENCH_OLD", "9239965")], cwd=root, check=True)
        try:
            yield old
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=root, check=True)
