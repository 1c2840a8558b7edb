"""Rows "train step" and "ZeRO" of the performance table: CPU seconds a step of rank 0, ours through Ray Train, theirs by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.measure import report

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
ROWS = {
    "single": ("train step, our engine in one process over a bare torch loop", 1.03),
    "ddp": ("train step, Ray Train DDP, 2 workers over torchrun DDP", 1.05),
    "zero1": ("ZeRO-1 under us over DeepSpeed under torchrun", 1.05),
    "zero2": ("ZeRO-2 under us over DeepSpeed under torchrun", 1.05),
    "zero3": ("ZeRO-3 under us over DeepSpeed under torchrun", 1.05),
}


def seconds(command: list[str], **environment: str) -> float:
    """CPU seconds a step that rank 0 of the command noted."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "BENCH_OUT": folder, "GENLIB_RUNS": folder, "PYTHONWARNINGS": "ignore", **environment},
        )  # fmt: skip
        return json.loads(Path(folder, "0.json").read_text())


def ours(kind: str) -> float:
    """Through jobs/train.py, on a head of its own, whose workers inherit the environment."""
    workers = "1" if kind == "single" else "2"
    return seconds(["-m", "tests.benchmarks.steps", "--workers", workers, "--train.strategy", kind])


def theirs(kind: str) -> float:
    """The bare loop, under torchrun where there are two."""
    if kind == "single":
        return seconds(["-m", "tests.benchmarks.bare", kind])
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return seconds([*torchrun, "-m", "tests.benchmarks.bare", kind])


def main(kinds: list[str]) -> None:
    """One JSON line a kind, rounds of ours and theirs in turn."""
    for kind in kinds:
        pairs = [(ours(kind), theirs(kind)) for _ in range(ROUNDS)]
        name, must = ROWS[kind]
        least = {"ours_cpu_ms": 1e3 * min(a for a, _ in pairs), "reference_cpu_ms": 1e3 * min(b for _, b in pairs)}
        report(name, [a / b for a, b in pairs], must=must, **least)


if __name__ == "__main__":
    main(sys.argv[1:] or list(ROWS))
