"""`make bench`: runs every benchmark of this folder, one after the other, and prints a table of their rows.

A benchmark is a script that prints JSON lines as `tests.benchmarks.measure.report` does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HELPERS = {
    "__init__",
    "__main__",
    "steps",
    "bare",
    "plain",
    "measure",
    "data_peers",
    "data_sets",
    "sharded_rank",
    "full_size_rank",
    "save_rank",
    "save_beside_torch",
}


def main(words: list[str]) -> int:
    """Runs the benchmarks whose names are given, or all; 1 if one failed."""
    scripts = [path for path in sorted(Path(__file__).parent.glob("*.py")) if path.stem not in HELPERS and (not words or path.stem in words)]
    rows, failed = [], []
    for script in scripts:
        print(f"{script.stem} ...", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", f"tests.benchmarks.{script.stem}"], stdout=subprocess.PIPE, text=True)
        rows += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        failed += [script.stem] if done.returncode else []
    for row in rows:
        must = "" if row["must"] is None else f"must be <= {row['must']:g}"
        print(f"{row['name']:<75} {row['ratio']:>7.3f}  {row['spread']!s:<16} {must}")
    print(*(f"failed: {name}" for name in failed), sep="\n", end="", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
