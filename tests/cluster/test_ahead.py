"""A head that is started ahead of a command's imports is the one it uses, and is gone with the command, however early that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.jobs.runs import ROOT, alive, descendants, start, wait_until

pytestmark = pytest.mark.ray
USES = """
import os
from cluster import ahead, local
ahead.begin()
begun = os.environ["RAY_AUTH_TOKEN_PATH"]
local.coming_head = ahead.connect.local_head = None  # no other is started
with ahead.connected(lambda: print("meanwhile", flush=True)):
    import ray
    print(ray.nodes()[0]["NodeManagerAddress"], begun == os.environ["RAY_AUTH_TOKEN_PATH"], flush=True)
print("RAY_AUTH_TOKEN_PATH" in os.environ, flush=True)
"""
LEAVES = "import sys\nfrom cluster import ahead\nahead.begin()\nprint(flush=True)\nsys.stdin.read()\nsys.exit(5)"


def test_a_command_uses_the_head_that_was_begun() -> None:
    ended = subprocess.run([sys.executable, "-c", USES], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ended.stdout.splitlines() == ["meanwhile", "127.0.0.1 True", "False"], ended.stderr


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0, 6.0])
def test_a_command_that_ends_before_it_needs_one_leaves_nothing(seconds: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", LEAVES], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    time.sleep(seconds)
    begun = descendants(process.pid)
    process.communicate(timeout=60)
    wait_until(lambda: not any(map(alive, begun)), timeout_seconds=30)
    assert process.returncode == 5
    assert begun


def test_a_signal_while_modules_are_imported_ends_the_head_too(tmp_path: Path) -> None:
    process = start("vae", runs=tmp_path, script="jobs/train.py")
    wait_until(lambda: descendants(process.pid))
    heads = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, len(err.splitlines())) == (130, 1), err
    wait_until(lambda: not any(map(alive, heads)), timeout_seconds=30)


@pytest.mark.parametrize("words", [("vae", "--help"), ("vae", "--dry-run"), ()])
def test_who_asks_for_no_training_starts_no_ray(tmp_path: Path, words: tuple[str, ...]) -> None:
    process = start(*words, runs=tmp_path, script="jobs/train.py")
    seen: set[int] = set()
    while process.poll() is None:
        seen |= descendants(process.pid)
        time.sleep(0.02)
    assert not seen
