"""`make chaos`, or `python -m tests.chaos [FAULT...]`: does each fault to a run, and prints a table of what came of it.

Each run has namespaces of its own (processes, network, mounts) where this process may make them, so that nothing outlives it. SEED draws the
moments and who is hit; the same seed draws the same ones.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos.disturbed import WORDS
from tests.chaos.faults import FAULTS, Outcome
from tests.jobs.runs import launch

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 600
APART = ("unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")
_WIDTH = 100


def main(words: Sequence[str]) -> int:
    """The exit code: 1 where a promise did not hold."""
    if words[:1] == ["--one"]:
        return one(*words[1:])
    if unknown := [word for word in words if word not in FAULTS]:
        raise SystemExit(f"there is no fault {unknown[0]!r}; there are {', '.join(FAULTS)}")
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    os.environ["GENLIB_FAMILIES"] = "tests"
    print(f"seed {seed}{'' if may_be_apart() else '; without namespaces of their own, which need root'}", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        code, out, err = launch(*WORDS, runs=Path(folder))
        if code:
            raise SystemExit(f"the run that nobody disturbs failed: {out}{err}")
        outcomes = {name: outcome_of(name, seed, Path(folder)) for name in words or FAULTS}
    print(f"{sum(one.good for one in outcomes.values())} of {len(outcomes)} as promised, {time.monotonic() - begin:.0f} s")
    return int(not all(one.good for one in outcomes.values()))


def may_be_apart() -> bool:
    """Whether this process may make namespaces."""
    return shutil.which("unshare") is not None and not subprocess.run([*APART, "true"], capture_output=True).returncode


def outcome_of(name: str, seed: int, folder: Path) -> Outcome:
    """Of one fault, in a process of its own; printed."""
    runs = folder / name
    runs.mkdir()
    command = [sys.executable, "-m", "tests.chaos", "--one", name, str(seed), str(runs), str(folder / "r")]
    if may_be_apart():
        command = [*APART, "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=LIMIT_SECONDS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        found = Outcome(**json.loads((runs / "outcome.json").read_text())) if not done.returncode else Outcome(last(done.stdout), good=False)
    except subprocess.TimeoutExpired:
        found = Outcome(f"not over after {LIMIT_SECONDS} s", good=False)
    print(row(name, found), flush=True)
    return found


def last(text: str) -> str:
    """The last line that is not empty."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no word")


def row(name: str, found: Outcome) -> str:
    """A fault's three lines of the report: what was done, what happened, in numbers."""
    seconds = f"{found.seconds:.1f} s to go on" if found.seconds == found.seconds else "no time to go on"
    redone = f"{found.redone:.0f} steps redone" if found.redone == found.redone else "no steps redone"
    numbers = f"{seconds}, {redone}, weights {found.weights}"
    return f"{'ok  ' if found.good else 'FAIL'} {name}: {FAULTS[name].__doc__}\n       {found.happened[: _WIDTH * 2]}\n       {numbers}"


def one(name: str, seed: str, runs: str, undisturbed: str) -> int:
    """Does the fault, and writes its outcome."""
    outcome = FAULTS[name](Path(runs), Path(undisturbed), random.Random(f"{seed} {name}"))
    Path(runs, "outcome.json").write_text(json.dumps(asdict(outcome)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
