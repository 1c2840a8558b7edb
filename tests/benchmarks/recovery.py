"""Row "recovery": seconds from the loss of a node to the next step of a run with `--workers 1:2`, over an older commit. BENCH_OLD is that commit.

A cluster of two nodes on this machine; all processes of one of them are killed at once. Wall time, as waiting is the point.
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
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))


def seconds(code: Path) -> float:
    """Of that checkout."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "found.json")
        command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "benchmarks" / "recovery_run.py"), folder, str(found), str(ROOT)]
        subprocess.run(command, check=True, cwd=code, env={**os.environ, "PYTHONPATH": str(code)}, stdin=subprocess.DEVNULL)
        return json.loads(found.read_text())


def main() -> None:
    """Prints the row."""
    with older_commit() as old:
        pairs = [(seconds(ROOT), seconds(old)) for _ in range(ROUNDS)]
    ours, theirs = pairs[-1]
    report(
        "a node is lost: seconds to the next step, over an older commit", [one / other for one, other in pairs], must=None, ours=ours, before=theirs
    )


if __name__ == "__main__":
    main()
