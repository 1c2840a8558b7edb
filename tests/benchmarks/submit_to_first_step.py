"""Row "submit to first step": seconds from the command to its first row in metrics.jsonl, on a head that is up; against a plain process.

Wall time, as waiting is the point; rounds of ours and theirs in turn.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster.local import Head, local_head
from tests.benchmarks.measure import report

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))


def first_step(command: list[str], runs: Path, **environment: str) -> float:
    """Seconds until metrics.jsonl has a row; the command is ended then."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "GENLIB_RUNS": str(runs), **environment}
    )
    try:
        while not any(path.stat().st_size for path in runs.glob("*/metrics.jsonl")):
            if process.poll() not in (None, 0):
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.02)
        return time.monotonic() - begin
    finally:
        process.terminate()
        process.wait()


def one_round(head: Head) -> tuple[float, float]:
    """Seconds of ours (two workers through the job API) and of the same engine in one plain process."""
    submit = ["-m", "cluster.submit", "--", "python", "-m", "tests.benchmarks.steps", "--workers", "2"]
    plain = ["-m", "tests.benchmarks.plain"]
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        ours = first_step([*submit, "--run-dir", f"{a}/run"], Path(a), RAY_ADDRESS=head.job_address)
        return ours, first_step(plain, Path(b))


def main() -> None:
    """Prints the row."""
    with local_head(cpus=2) as head:
        pairs = [one_round(head) for _ in range(ROUNDS)]
    seconds, plain = (statistics.median(side) for side in zip(*pairs, strict=True))
    report("submit to first step: seconds over 25", [a / 25 for a, _ in pairs], must=1.0, seconds=seconds, plain_process_seconds=plain)


if __name__ == "__main__":
    main()
