"""Rows "sharded training": ZeRO-3 from build to first step on several ranks of this machine, over an older commit.

The most that a rank holds above the bare process (resident, by the kernel's high-water mark), what building the network alone leaves, and the
median time of the steps after the first. BENCH_OLD is the older commit; BENCH_RANKS, BENCH_LAYERS, BENCH_WIDTH and BENCH_ROUNDS are the sizes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.measure import older_commit, report

ROOT = Path(__file__).parents[2]
RANKS, LAYERS, WIDTH = (int(os.environ.get(f"BENCH_{name}", default)) for name, default in (("RANKS", 4), ("LAYERS", 16), ("WIDTH", 2048)))
ROUNDS, STEPS = int(os.environ.get("BENCH_ROUNDS", "3")), 5


def run(script: str, code: Path, folder: str, *words: object) -> None:
    """A benchmark's script in every rank, with the genlib of that checkout."""
    path = ROOT / "tests" / "benchmarks" / script
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(path), str(rank), str(RANKS), f"{folder}/store", *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    codes = [process.wait() for process in ranks]
    if any(codes):
        raise RuntimeError(f"a rank of {code} failed")


def measured(code: Path) -> dict[str, float]:
    """What that checkout's ranks found; of each number the greatest."""
    with tempfile.TemporaryDirectory() as folder:
        run("sharded_rank.py", code, folder, folder, LAYERS, WIDTH, STEPS)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(RANKS)]
    return {name: max(one[name] for one in found) for name in found[0]}


def main() -> None:
    """Prints the rows."""
    with older_commit() as old:
        pairs = [(measured(ROOT), measured(old)) for _ in range(ROUNDS)]
    for title, name, must in (
        ("peak from build to first step", "first_peak_mb", 0.35),
        ("peak of all steps", "peak_mb", None),
        ("built", "built_mb", 0.4),
        ("step", "step_seconds", 1.05),
    ):
        ours, theirs = pairs[-1][0][name], pairs[-1][1][name]
        report(f"sharded training, {title}: over an older commit", [a[name] / b[name] for a, b in pairs], must=must, ours=ours, before=theirs)


if __name__ == "__main__":
    main()
