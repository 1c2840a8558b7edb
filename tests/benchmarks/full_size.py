"""Rows "full size": the U-Net of Stable Diffusion 2 (866 million weights) over a limit of memory, that of all ranks together.

It is born on two ranks under ZeRO-3, takes two steps on latents of 64 x 64 with checkpointed activations, is saved while it steps, and goes on
with a third step on one rank.

An older commit, which BENCH_OLD names, does the first part with SGD, the optimizer that has no state, and is ended at the limit. Memory is
what the processes have for themselves and their share of what they have together (Pss), looked at every half second; a run takes 40 GB of disk.
BENCH_LIMIT_GB, BENCH_OPTIMIZER, BENCH_WIDTH (320) and BENCH_FOLDER say otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.measure import older_commit, report

ROOT = Path(__file__).parents[2]
LIMIT = float(os.environ.get("BENCH_LIMIT_GB", "20"))
OPTIMIZER = os.environ.get("BENCH_OPTIMIZER", "adafactor")
WIDTH = int(os.environ.get("BENCH_WIDTH", "320"))
LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """Of the ranks of one run: the most memory at once, the seconds it took, and whether they came to their end."""

    peak_gb: float
    seconds: float
    ended: bool


def memory_gb(processes: list[subprocess.Popen]) -> float:
    """Of all of them, at this moment."""
    found = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        found += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return found * 1024 / 1e9


def trained(code: Path, folder: Path, world: int, steps: int, optimizer: str) -> Found:
    """So many ranks of that checkout train the run in `folder` up to that step, or to the limit."""
    start, script = time.monotonic(), str(ROOT / "tests" / "benchmarks" / "full_size_rank.py")
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "GENLIB_FAMILIES": "full_size_rank"}
    words = [str(world), str(folder / f"store-{world}"), str(folder / "run"), str(steps), optimizer, str(WIDTH)]
    ranks = [
        subprocess.Popen([sys.executable, "-W", "ignore", script, str(rank), *words], env=environment, stdout=sys.stderr) for rank in range(world)
    ]
    peak = 0.0
    try:
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            peak = max(peak, memory_gb(ranks))
            if peak > LIMIT:
                break
            time.sleep(LOOK_SECONDS)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
        codes = [rank.wait() for rank in ranks]
    if any(codes) and peak <= LIMIT:
        raise RuntimeError(f"a rank of {code} failed with {codes}")
    return Found(round(peak, 2), round(time.monotonic() - start), not any(codes))


def times(folder: Path) -> list[str]:
    """What the run's timeline says of its starts and saves."""
    rows = [json.loads(line) for line in (folder / "run" / "timeline.jsonl").read_text().splitlines()]
    return [f"{row['what']} {row['step']}: {row['seconds']:.1f} s" + (f", waited {row['waited']:.1f} s" if "waited" in row else "") for row in rows]


def main() -> None:
    """Prints the rows."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder, older_commit() as old:
        for name, world, steps in (("born on two ranks, two steps, saved", 2, 2), ("goes on with one", 1, 3)):
            found = trained(ROOT, Path(folder), world, steps, OPTIMIZER)
            facts = {"gb": found.peak_gb, "limit_gb": LIMIT, "seconds": found.seconds, "optimizer": OPTIMIZER, "times": times(Path(folder))}
            report(f"full size, {name}: memory over the limit", [found.peak_gb / LIMIT], must=1, **facts)
        Path(folder, "old").mkdir()
        found = trained(old, Path(folder, "old"), 2, 2, "sgd")
        facts = {"gb": found.peak_gb, "limit_gb": LIMIT, "seconds": found.seconds, "ended": found.ended, "optimizer": "sgd"}
        report("full size, an older commit: memory over the limit", [found.peak_gb / LIMIT], must=None, **facts)


if __name__ == "__main__":
    main()
