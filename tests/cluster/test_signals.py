"""What signals do to a command that starts no Ray: twice at once, with nobody to hear it, with one who cannot be asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.signals import check_grace
from jobs.run_options import RunOptions
from jobs.tune_options import TuneOptions

ROOT = Path(__file__).parents[2]
COMMAND = """
import sys, threading, time
from pathlib import Path
from cluster.signals import ends_well, interruptible, keeps

stop, saved = threading.Event(), Path(sys.argv[1])

def ask():
    if "unheard" in sys.argv:
        raise ConnectionError("nobody listens")
    stop.set()

def work():
    with keeps(lambda: f"kept: {saved.exists()}"), ends_well(ask, 2.0):
        Path(sys.argv[2]).touch()
        stop.wait(20)
        time.sleep(0.5)
        saved.touch()
    return 0

sys.exit(interruptible(work))
"""


def command(folder: Path, *words: str, closed: tuple[int, ...] = ()) -> subprocess.Popen:
    """One that takes half a second to save, once it is asked to end."""
    words = (sys.executable, "-c", COMMAND, str(folder / "saved"), str(folder / "ready"), *words)
    without = " ".join(f"{number}>&-" for number in closed)
    process = subprocess.Popen(["sh", "-c", f'exec "$@" {without}', "sh", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not (folder / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.02])
def test_a_signal_that_is_sent_twice_at_once_is_one(tmp_path: Path, number: signal.Signals, seconds: float) -> None:
    process = command(tmp_path)
    os.kill(process.pid, number)
    time.sleep(seconds)
    os.kill(process.pid, number)
    said = process.communicate(timeout=20)[1]
    assert (process.returncode, said.splitlines()[1:]) == (128 + number, ["kept: True"])


def test_a_second_one_ends_it_at_once(tmp_path: Path) -> None:
    process = command(tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)])
def test_who_has_no_terminal_is_saved_too(tmp_path: Path, closed: tuple[int, ...]) -> None:
    process = command(tmp_path, closed=closed)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert (tmp_path / "saved").exists()


def test_one_who_cannot_be_asked_is_ended_with_the_grace_time(tmp_path: Path) -> None:
    process = command(tmp_path, "unheard")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 143
    assert said == "SIGTERM: ending within 2 s; a second signal ends at once\nkept: False\n"


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_grace_time_is_a_time(seconds: float) -> None:
    for options in (RunOptions, TuneOptions):
        with pytest.raises(ValueError, match=r"grace_seconds is .*; it must be a number of seconds from 0, such as 25"):
            options(grace_seconds=seconds)
    check_grace(0)


GENLIB = ("-c", "import sys; sys.argv[0] = 'genlib'; from jobs.genlib_command import main; sys.exit(main())")


INTERRUPTS = """
import os, signal, sys

def look(event, arguments):
    if event == "import" and arguments[0] == os.environ["INTERRUPTED_AT"]:
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(look)
"""


@pytest.mark.parametrize(
    ("words", "modules"),
    [
        (("jobs/train.py", "vae"), ("genlib", "cluster.local", "genlib.registry", "torch", "jobs.undo")),
        (("jobs/tune.py", "vae", "--help"), ("genlib.phases", "cluster.signals", "genlib.registry", "torch")),
        (("jobs/evaluate.py", "--help"), ("genlib.phases", "torch")),
        (("jobs/prepare_data.py", "--help"), ("cluster.signals", "numpy")),
        (("-m", "serve", "--help"), ("genlib.phases", "cluster.screen", "tyro", "serve.options")),
        (("-m", "cluster.submit", "--", "true"), ("genlib.phases", "asyncio", "cluster.connect")),
        ((*GENLIB, "generate", "--help"), ("genlib.phases", "cluster.signals", "jobs.command_form", "torch")),
    ],
    ids=("train", "tune", "evaluate", "data", "serve", "submit", "genlib"),
)
def test_ctrl_c_while_modules_are_imported_is_no_traceback(words: tuple[str, ...], modules: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "GENLIB_RUNS": str(tmp_path), "GENLIB_FAMILIES": ""}
    for module in modules:
        ended = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env={**environment, "INTERRUPTED_AT": module}, capture_output=True, text=True, timeout=120
        )
        assert (ended.returncode, ended.stdout) == (130, ""), (module, ended.stdout, ended.stderr)
        assert ended.stderr == "stopped before anything was done; the same command begins again\n", module


@pytest.mark.parametrize(
    "words",
    [
        ("jobs/train.py", "--help"),
        ("jobs/train.py", "--list"),
        ("jobs/prepare_data.py", "--help"),
        pytest.param(("jobs/tune.py", "ddpm", "--help"), marks=pytest.mark.slow),
        pytest.param(("-m", "serve", "--help"), marks=pytest.mark.slow),
        pytest.param(("cluster/submit.py", "--help"), marks=pytest.mark.slow),
    ],
)
def test_who_reads_no_more_gets_no_traceback(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `head` that has read enough
    environment = {**os.environ, "GENLIB_FAMILIES": ""}  # a script's path is its own folder: the tests' families are not there
    ended = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")
