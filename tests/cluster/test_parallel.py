"""parallel_map: map's results in map's order, here or over Ray; errors that name their item; nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

from cluster.local import local_head
from cluster.parallel import ProgressLine, parallel_map
from tests.jobs.runs import ROOT, alive, descendants, wait_until


def late_square(number: int) -> int:
    """Early items take longer than later ones."""
    time.sleep(max(0, 5 - number) * 0.05)
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise ValueError("three is no good")
    return number


def where(_: int) -> int:
    return os.getpid()


def end_process(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_at_last(folder: Path, number: int) -> int:
    """The last of four refuses once the others' processes are known."""
    if number == 3:
        wait_until(lambda: len(list(folder.iterdir())) == 3, timeout_seconds=60)
        raise ValueError("enough")
    (folder / str(os.getpid())).touch()
    time.sleep(1000)
    return number


def divide(number: int) -> float:
    return 1 / (number - 1)


def test_few_items_are_done_here_as_they_are_asked_for() -> None:
    asked = []
    results = parallel_map(lambda item: asked.append(item) or item, iter("abc"), label="naming")
    assert next(results) == "a"
    assert asked == ["a"]
    assert list(results) == ["b", "c"]
    assert list(parallel_map(where, range(3), label="asking")) == [os.getpid()] * 3
    assert list(parallel_map(where, (), label="asking")) == []


def test_an_error_names_its_item_and_keeps_its_kind() -> None:
    with pytest.raises(ValueError, match=r"^checking number 3: three is no good$"):
        list(parallel_map(refuse_three, range(5), label="checking", name=lambda item: f"number {item}"))
    with pytest.raises(RuntimeError, match=r"^dividing 1: ZeroDivisionError: division by zero$"):
        list(parallel_map(divide, range(5), label="dividing"))
    with pytest.raises(OSError, match=r"^opening /nowhere: \[Errno 2\]"):
        list(parallel_map(Path.read_bytes, [Path("/nowhere")], label="opening"))


def test_progress_says_how_long_it_will_take(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ProgressLine("indexing", 100)
    assert progress.words(9) == "0 of 100 in 9 s"
    progress.done, progress._first = 21, progress._start + 5
    assert progress.words(25) == "21 of 100 in 25 s, about 79 s to go"
    assert ProgressLine("indexing", None).words(3) == "0 in 3 s"
    progress._last -= 11
    progress.advance()
    assert capsys.readouterr().err.startswith("indexing: 22 of 100 in ")
    progress.advance()
    assert capsys.readouterr().err == ""


def many_items() -> None:
    """In a process of its own: whatever becomes of Ray's driver, it is not that of all tests."""
    with local_head(cpus=4, dashboard=False) as head:
        import ray

        ray.init(address=head.address, logging_level="ERROR", log_to_driver=False)
        try:
            assert list(parallel_map(late_square, range(40), label="squaring")) == [number * number for number in range(40)]
            assert os.getpid() not in set(parallel_map(where, iter(range(20)), label="asking"))
            with pytest.raises(ValueError, match=r"^checking 3: three is no good"):
                list(parallel_map(refuse_three, range(20), label="checking"))
            with pytest.raises(RuntimeError, match=r"^dividing 1: ZeroDivisionError: division by zero"):
                list(parallel_map(divide, range(20), label="dividing"))
            with pytest.raises(RuntimeError, match=r"^ending 2: WorkerCrashedError"):
                list(parallel_map(end_process, range(20), label="ending"))
            with tempfile.TemporaryDirectory() as folder:
                with pytest.raises(ValueError, match=r"^leaving 3: enough"):
                    list(parallel_map(partial(leave_at_last, Path(folder)), range(4), label="leaving", local_below=2))
                processes = [int(path.name) for path in Path(folder).iterdir()]
                wait_until(lambda: not any(map(alive, processes)), timeout_seconds=20)
            with contextlib.closing(parallel_map(late_square, range(1000), label="leaving")) as left:
                assert next(left) == 0
        finally:
            ray.shutdown()


@pytest.mark.ray
def test_many_items_over_ray() -> None:
    script = "from tests.cluster.test_parallel import many_items; many_items()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)


SLEEPER = """
import sys, time
from cluster.parallel import parallel_map
def work(item):
    time.sleep(0.1 if item < 2 else 1000)
    return item
if __name__ == "__main__":
    for result in parallel_map(work, range(50), label="sleeping"):
        print(result, flush=True)
"""


@pytest.mark.ray
def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    script = [sys.executable, str(tmp_path / "sleeper.py")]
    process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    below = descendants(process.pid)
    assert any("raylet" in Path(f"/proc/{pid}/cmdline").read_text() for pid in below)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    wait_until(lambda: not any(map(alive, below)), timeout_seconds=20)
