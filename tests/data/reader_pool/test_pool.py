"""Reader processes: all batches, in order, whatever ends a process; nothing left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from genlib.data.reader_pool.pool import ReaderPool
from genlib.types import Batch
from tests.data.reader_pool import pool_work
from tests.data.reader_pool.pool_work import Calling, Numbered, alive, children, chunks, eventually, open_files

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")


@pytest.fixture(scope="module")
def pool() -> Iterator[ReaderPool]:
    with ReaderPool(Calling(), 2) as pool:
        yield pool


def _same(got: Batch, expected: Batch) -> bool:
    return got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in got if name != "pid")


# --- what goes through


def test_any_tensor_arrives_as_it_was_made(pool: ReaderPool) -> None:
    for seed, got in enumerate(pool.run([("odd_tensors", seed) for seed in range(6)])):
        expected = pool_work.odd_tensors(seed)
        assert _same(got, expected)
        assert all(got[name].dtype == expected[name].dtype and got[name].shape == expected[name].shape for name in got)
        assert not got["grad"].requires_grad


def test_empty_batches_and_no_tasks(pool: ReaderPool) -> None:
    assert list(pool.run([])) == []
    assert list(pool.run([("nothing",)] * 50)) == [{}] * 50


def test_batches_of_any_size_in_any_order(pool: ReaderPool) -> None:
    sizes = [1, 3, 100_000, 2, 400_000, 50_000, 0, 700_001, 5] * 3
    for number, got in enumerate(pool.run([("sized", number, size) for number, size in enumerate(sizes)])):
        assert _same(got, pool_work.sized(number, sizes[number]))


def test_tasks_larger_than_any_socket_buffer(pool: ReaderPool) -> None:
    tasks = [np.full(1_000_000, number) for number in range(8)]
    assert [int(got["sum"]) for got in pool.run(("summed", task) for task in tasks)] == [number * 1_000_000 for number in range(8)]


def test_a_reader_does_not_import_the_compiler(pool: ReaderPool) -> None:
    """It would take longer than all else that a reader imports."""
    assert [bool(got["compiler"]) for got in pool.run([("brings_the_compiler",)])] == [False]


def test_every_process_works(pool: ReaderPool) -> None:
    seen: set[int] = set()
    run = pool.run(("sized", number, 100_000) for number in range(20_000))
    while len(seen) < 2:
        seen.add(int(next(run)["pid"]))
    run.close()
    assert seen <= children()


def test_tasks_are_taken_no_further_ahead_than_there_are_slots(pool: ReaderPool) -> None:
    taken = []
    for got in (run := pool.run(("sized", taken.append(number) or number, 4) for number in range(1000))):
        assert len(taken) - 1 - int(got["long"][0]) < 4
        if len(taken) > 50:
            break
    run.close()


def test_runs_at_once_from_several_threads(pool: ReaderPool) -> None:
    results: dict[int, list[int]] = {}

    def consume(first: int) -> None:
        results[first] = [int(got["long"][0]) for got in pool.run([("sized", first + number, 1000) for number in range(100)])]

    threads = [threading.Thread(target=consume, args=(first,)) for first in (0, 1000, 2000)]
    held = pool.run([("sized", number, 7) for number in range(50)])
    first = next(held)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {first: list(range(first, first + 100)) for first in (0, 1000, 2000)}
    assert [int(got["long"][0]) for got in (first, *held)] == list(range(50))


# --- memory


def test_slots_are_used_again(pool: ReaderPool) -> None:
    def memory_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    places, before, size = set(), 0, 10_000
    for number, got in enumerate(pool.run(("sized", number, size) for number in range(1000))):
        places.add(got["wide"].untyped_storage().data_ptr())
        assert int(got["long"][-1]) == number
        before = before or memory_bytes()
    assert len(places) <= 2 * 4 + 2
    assert memory_bytes() - before < 16 * size * 20


def test_what_a_consumer_keeps_is_never_written_again(pool: ReaderPool) -> None:
    kept: list[torch.Tensor] = []
    for number, got in enumerate(pool.run([("sized", number, 1000) for number in range(300)])):
        if number % 3 == 0:
            kept.append(got["wide"][500:, 1])  # a view of a view
    assert [set(tensor.tolist()) for tensor in kept] == [{float(number)} for number in range(0, 300, 3)]
    again = [got["long"].numpy() for got in pool.run([("sized", number, 1000) for number in range(100)])]
    assert [set(values.tolist()) for values in again] == [{number} for number in range(100)]
    assert [set(tensor.tolist()) for tensor in kept] == [{float(number)} for number in range(0, 300, 3)]


def test_a_consumer_may_write_into_its_batch(pool: ReaderPool) -> None:
    for number, got in enumerate(pool.run([("sized", number, 1000) for number in range(30)])):
        assert bool((got["wide"] == number).all())
        got["wide"].fill_(-1)


# --- processes that end


def test_kills_at_random_change_nothing() -> None:
    work, tasks, chance, killed, number = Numbered(pause_seconds=0.002), chunks(125), random.Random(0), 0, -1
    with ReaderPool(work, 2) as pool:
        for number, got in enumerate(pool.run(tasks)):
            assert _same(got, work.batch(tasks[number]))
            if number % 25 == 24 and (pid := int(got["pid"])) in children():
                time.sleep(chance.random() * 0.03)
                os.kill(pid, signal.SIGKILL)
                killed += 1
        assert number == 124
        assert killed > 2
        assert pool.quarantined == {}


@pytest.mark.parametrize(("trouble", "reason"), [("exit", "killed its reader"), ("sleep", "hung its reader")])
def test_a_sample_that_ends_its_reader_is_left_out(trouble: str, reason: str) -> None:
    tasks = chunks(12)
    with ReaderPool(Numbered({17: trouble}), 2, timeout_seconds=3.0) as pool:
        got = [batch["sample"].tolist() for batch in pool.run(tasks)]
        assert got == [[sample for sample in task.tolist() if sample != 17] for task in tasks]
        assert pool.quarantined == {17: reason}
        assert [batch["sample"].tolist() for batch in pool.run([np.array([16, 17, 18])])] == [[16, 18]]


def test_an_exception_comes_at_its_turn_and_ends_only_the_run() -> None:
    with ReaderPool(Numbered({17: "raise"}), 1) as pool:
        run = pool.run(chunks(5))
        assert [next(run)["sample"].tolist() for _ in range(2)] == [list(range(8)), list(range(8, 16))]
        before = children()
        with pytest.raises(ValueError, match=r"^sample 17 is refused") as caught:
            next(run)
        assert str(caught.value) == "sample 17 is refused"
        assert "pool_work.py" in caught.value.__notes__[0]
        assert [batch["sample"].tolist() for batch in pool.run([np.array([18])])] == [[18]]
        assert children() == before


def test_an_exception_that_takes_more_than_a_text(pool: ReaderPool) -> None:
    with pytest.raises(RuntimeError, match=r"UnicodeDecodeError: .*invalid start byte"):
        list(pool.run([("fails_oddly",)]))


def test_an_exception_at_the_start_comes_out() -> None:
    with ReaderPool(Numbered({-1: "raise"}), 2) as pool, pytest.raises(ValueError, match="sample -1 is refused"):
        next(pool.run(chunks(3)))


def test_processes_that_cannot_start_are_an_error() -> None:
    before = children()
    with ReaderPool(Numbered({-1: "exit"}), 1) as pool, pytest.raises(RuntimeError, match="3 reader processes ended with status 3"):
        next(pool.run(chunks(3)))
    assert children() == before


@pytest.mark.slow
def test_every_sample_ending_its_reader_is_an_error() -> None:
    with (
        ReaderPool(Numbered(dict.fromkeys(range(100), "exit")), 1) as pool,
        pytest.raises(RuntimeError, match=r"10 reader processes .* at sample 4;"),
    ):
        next(pool.run(chunks(3)))


def test_a_stopped_process_is_replaced_and_an_interrupt_is_for_the_parent() -> None:
    with ReaderPool(Numbered(pause_seconds=0.01), 1, timeout_seconds=2.0) as pool:
        run = pool.run(chunks(20))
        pid = int(next(run)["pid"])
        os.kill(pid, signal.SIGINT)
        assert int(next(run)["pid"]) == pid
        os.kill(pid, signal.SIGSTOP)
        assert sum(len(batch["sample"]) for batch in run) >= 18 * 8 - 1
        assert list(pool.quarantined.values()) in ([], ["hung its reader"])
        assert not alive(pid)


# --- nothing left behind


def test_close_in_the_middle_leaves_no_process_and_no_file() -> None:
    before = open_files(), threading.active_count(), children()
    pool = ReaderPool(Numbered(), 2)
    run = pool.run(chunks(1000))
    kept = [next(run) for _ in range(5)]
    pool.close()
    assert children() == before[2]
    assert threading.active_count() == before[1]
    assert [batch["sample"].tolist() for batch in kept] == [list(range(8 * number, 8 * number + 8)) for number in range(5)]
    with pytest.raises(RuntimeError, match="closed"):
        list(run)
    pool.close()
    del kept, run
    assert eventually(lambda: open_files() <= before[0])  # a thread of multiprocessing's may still hold its end


def test_batches_that_nobody_took_go_with_the_run() -> None:
    before = open_files()
    pool = ReaderPool(Numbered({8: "sleep"}), 2)
    run = pool.run(chunks(1000))
    next(run)
    assert eventually(lambda: any(future.done() for future in run.gi_frame.f_locals["ahead"]))  # the third, behind the one that sleeps
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(run)
    assert eventually(lambda: open_files() <= before)


def test_a_pool_that_nobody_has_ends() -> None:
    before = open_files(), children()
    run = ReaderPool(Numbered(), 2).run(chunks(1000))
    next(run)
    del run
    assert children() == before[1]
    assert open_files() == before[0]


def test_close_while_another_thread_waits() -> None:
    pool, errors = ReaderPool(Numbered({0: "sleep"}), 1), []

    def consume() -> None:
        try:
            list(pool.run(chunks(3)))
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=consume)
    thread.start()
    time.sleep(0.5)
    pool.close()
    thread.join(30)
    assert errors == ["the reader pool was closed"]


def _script(body: str, *, readers: int = 2, shell: str = "", **options: object) -> subprocess.Popen:
    """A process of its own that runs `body` with a pool of so many processes and endless tasks at hand."""
    head = (
        "import itertools, os, sys, time; sys.path.insert(0, '.')\n"
        "from genlib.data.reader_pool.pool import ReaderPool\nfrom tests.data.reader_pool.pool_work import *\n"
        f"if __name__ == '__main__':\n    pool = ReaderPool(Numbered(), {readers})\n    run = pool.run(itertools.cycle(chunks(10)))\n"
        "    next(run)\n    "
    )
    command = [sys.executable, "-c", head + body]
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command] if shell else command
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("moment", ["idle", "busy"])
def test_a_killed_parent_leaves_no_child_and_no_name(moment: str) -> None:
    before = set(os.listdir("/dev/shm"))
    busy = "print('ready', flush=True)\n    for batch in run: pass" if moment == "busy" else "print('ready', flush=True); time.sleep(600)"
    parent = _script(busy, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    readers = children(parent.pid)
    assert len(readers) == 2
    parent.kill()
    parent.wait()
    assert eventually(lambda: not any(alive(pid) for pid in readers))
    assert eventually(lambda: set(os.listdir("/dev/shm")) <= before)  # where other processes' names come and go
    parent.stdout.close()


def test_a_parent_that_just_ends_leaves_no_child() -> None:
    parent = _script("print(*children(), flush=True)", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    readers, complaints = parent.communicate(timeout=120)
    assert parent.returncode == 0
    assert complaints == ""
    assert len(readers.split()) == 2
    assert eventually(lambda: not any(alive(int(pid)) for pid in readers.split()))


# --- parents of all kinds


@pytest.mark.parametrize(
    "shell", ["<&- >&- 2>&-", *(pytest.param(other, marks=pytest.mark.slow) for other in ("</dev/null >{0}/out 2>{0}/err", ">&-"))]
)
def test_standard_files_of_the_parent_may_be_closed_or_files(shell: str, tmp_path: Path) -> None:
    body = (
        f"got = [next(run) for _ in range(50)]\n    os.write(1, b'noise'); os.write(2, b'noise')\n    open('{tmp_path}/result', 'w')"
        ".write(str(all(torch.equal(batch['row'], Numbered().batch(batch['sample'].numpy())['row']) for batch in got) and pool.quarantined == {}))"
        "\n    pool.close()"
    )
    parent = _script(body, readers=1, shell=shell.format(tmp_path))
    assert parent.wait(120) == 0
    assert (tmp_path / "result").read_text() == "True"


def test_a_pool_outlives_the_thread_that_made_it() -> None:
    made: list[ReaderPool] = []
    thread = threading.Thread(target=lambda: made.append(ReaderPool(Numbered(), 1)))
    thread.start()
    thread.join()
    with made[0] as pool:
        pids = {int(batch["pid"]) for batch in pool.run(chunks(10))}
        time.sleep(0.2)
        assert {int(batch["pid"]) for batch in pool.run(chunks(10))} == pids


def _fork(pool: ReaderPool) -> int:
    """A copy of this process that tries to use the pool, and ends with status 7 where it is not refused; else it stays, with all our files."""
    if pid := os.fork():
        return pid
    try:
        next(pool.run(chunks(1)))
    except RuntimeError:
        pool.close()
        time.sleep(600)
    finally:
        os._exit(7)


def test_busy_threads_and_forks_in_the_parent() -> None:
    stop, lock, before = threading.Event(), threading.Lock(), children()

    def churn() -> None:
        while not stop.is_set():
            with lock:
                sum(range(1000))

    threads = [threading.Thread(target=churn, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    with ReaderPool(Numbered(), 2) as pool:
        run = pool.run(chunks(100))
        first, readers = next(run), children() - before
        fork = _fork(pool)
        assert [int(batch["sample"][0]) for batch in (first, *run)] == list(range(0, 800, 8))
        stop.set()
    try:
        assert len(readers) == 2
        assert not any(alive(pid) for pid in readers)
        assert alive(fork)
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)
