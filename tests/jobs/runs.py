"""Starting toy runs as a user does, killing their processes, and reading what they leave."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from genlib.data.builtin.catalog import prepared

ROOT = Path(__file__).parents[2]
SCRIPT = "tests/jobs/run_toy.py"


def start(*words: str, runs: Path, script: str = SCRIPT, **environment: str) -> subprocess.Popen:
    """`python SCRIPT WORDS` with runs in that folder. The toys' data are there by then: what makes a set says so on stderr."""
    prepared("digits")
    if script != SCRIPT:  # a script's path is its own folder: the tests' families are not there
        environment = {"GENLIB_FAMILIES": "", **environment}
    return subprocess.Popen(
        [sys.executable, script, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "GENLIB_RUNS": str(runs), **environment},
    )  # fmt: skip


def finish(process: subprocess.Popen, timeout_seconds: float = 240) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    out, err = process.communicate(timeout=timeout_seconds)
    return process.returncode, out, err


def launch(*words: str, runs: Path, **environment: str) -> tuple[int, str, str]:
    """As `start`, to its end."""
    return finish(start(*words, runs=runs, **environment))


def wait_until(true: Callable[[], object], timeout_seconds: float = 120) -> None:
    """Returns once it is true; AssertionError if it never is."""
    deadline = time.monotonic() + timeout_seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def steps(run: Path) -> list[int]:
    """The steps in metrics.jsonl, in the order of its lines."""
    path = run / "metrics.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # the run may be about to write the rest of a line
    return [json.loads(line)["step"] for line in whole.splitlines()]


def weights(run: Path) -> str:
    """Digest of the newest checkpoint's weights and their moving average."""
    newest = max((run / "checkpoints").glob("step_*"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(newest.glob("*.safetensors")))).hexdigest()


def descendants(pid: int) -> set[int]:
    """Pids of all processes below this one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found.update(children)
        todo += children
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def workers(pid: int) -> list[int]:
    """Pids of the Ray Train workers below a driver with a Ray of its own."""
    return sorted(child for child in descendants(pid) if "RayTrainWorker" in command_of(child))


def command_of(pid: int) -> str:
    """Command line of the process, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
