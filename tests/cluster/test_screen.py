"""What a command shows on a terminal, in a file, and as lines of JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.screen import progress_of, screen
from genlib.phases import phase

STEP = "step  3/60        96 samples    1,234/s (1,234 per worker)  data 2%  loss 0.5000  lr 1.00e-03  ETA 0:00:01"
LINES = ("run r in runs/r", STEP, "evaluating")


def said(log_format) -> None:
    with screen(log_format):
        phase("Ray", seconds=2.04)
        for line in LINES:
            print(line)
        print("4 of 9 trials done: 2 running")
        print("half a line", end="")


def test_a_file_gets_the_lines_as_they_are(capsys: pytest.CaptureFixture) -> None:
    said("auto")
    assert capsys.readouterr().out == "   2.0 s  Ray\n" + "\n".join(LINES) + "\n4 of 9 trials done: 2 running\nhalf a line"


def test_json_has_an_object_a_line(capsys: pytest.CaptureFixture) -> None:
    said("json")
    ray, run, step, evaluating, trials, half = map(json.loads, capsys.readouterr().out.splitlines())
    assert (ray["message"], ray["seconds"]) == ("Ray", 2.0)
    assert (run["message"], run["level"], set(run)) == (LINES[0], "info", {"time", "level", "message"})
    assert (step["step"], step["steps"], step["message"]) == (3, 60, STEP)
    assert evaluating["message"] == "evaluating"
    assert (trials["trials_done"], trials["trials"]) == (4, 9)
    assert half["message"] == "half a line"


def test_a_terminal_gets_a_bar_and_keeps_the_other_lines_and_the_last_step() -> None:
    """A pseudo-terminal: rich looks at what stdout is."""
    ours, theirs = pty.openpty()
    code = "from tests.cluster.test_screen import said; said('auto')"
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], stdout=theirs, env=environment, check=True, timeout=60)
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"step [━╸╺]+ +3/60", text)
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    assert {"2.0 s  Ray", "run r in runs/r", "evaluating", "4 of 9 trials done: 2 running"} <= set(lines)
    assert STEP not in lines


def _read(file: int) -> bytes:
    try:
        return os.read(file, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def test_what_counts_is_a_step_or_a_search() -> None:
    assert progress_of(STEP) == ("step", 3, 60, STEP.partition("60  ")[2].strip().partition("  ETA")[0])
    assert progress_of("step 12: the scale has run away") is None
    assert progress_of("resumed from step_00000012: step 12 of 60") is None
