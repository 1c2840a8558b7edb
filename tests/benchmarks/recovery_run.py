"""One run of the row "recovery", by whichever checkout is on the path: python recovery_run.py FOLDER FOUND ROOT."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

STEPS_BEFORE = 60
WORDS = (
    "vae", "--run", "r", "--workers", "1:2", "--data.train", "digits", "--train.steps", "100000", "--train.checkpoint-every-steps", "50",
    "--train.pictures-every-steps", "0", "--train.log-every-seconds", "0.5",
)  # fmt: skip


def main(folder: str, found: str, root: str) -> None:
    """Writes the seconds."""
    spec = importlib.util.spec_from_file_location("nodes", Path(root, "tests", "nodes.py"))
    assert spec
    assert spec.loader
    sys.modules["nodes"] = nodes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nodes)
    os.environ["PYTHONPATH"] = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(root, "tests"))])  # nodes look for the hook there
    with nodes.cluster_of(1, 1) as cluster:
        command = [sys.executable, "jobs/train.py", *WORDS]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "GENLIB_RUNS": folder, **cluster.environment},
        )  # fmt: skip
        try:
            lines, lost = iter(process.stdout or ()), 0.0
            for line in lines:
                if not lost and line.startswith("step") and int(line.split()[1].partition("/")[0]) > STEPS_BEFORE:
                    lost = time.monotonic()
                    cluster.nodes[1].kill()
                elif lost and "first step" in line:
                    Path(found).write_text(json.dumps(time.monotonic() - lost))
                    return
            raise RuntimeError("the run ended before it went on")
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
