"""Row "command to first step": seconds from `python jobs/train.py clip_tiny`, head down, to its first row, over those of an older commit.

Wall time, as waiting is the point; rounds of both in turn. BENCH_OLD is the older commit, BENCH_WORDS are further options of both commands.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.measure import older_commit, report

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
WORDS = os.environ.get("BENCH_WORDS", "").split()


def seconds(code: Path) -> float:
    """Of the command as that checkout has it; it is ended with its first row."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory() as runs:
        begin = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "jobs/train.py", "clip_tiny", "--run-dir", f"{runs}/run", *WORDS], cwd=code,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**environment, "PYTHONPATH": str(code)},
        )  # fmt: skip
        rows = Path(runs, "run", "metrics.jsonl")
        try:
            while not (rows.exists() and rows.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(f"the command of {code} ended with {process.returncode}")
                time.sleep(0.02)
            return time.monotonic() - begin
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    """Prints the row."""
    with older_commit() as old:
        seconds(ROOT)  # the set is made, and files are in memory
        pairs = [(seconds(ROOT), seconds(old)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    report("command to first step: over an older commit", [a / b for a, b in pairs], must=0.6, seconds=ours, seconds_before=theirs)


if __name__ == "__main__":
    main()
