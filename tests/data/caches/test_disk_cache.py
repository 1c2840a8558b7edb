"""The disk cache: made once a node, right or absent whatever ends a process, below its limit, never in the way."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from genlib.data.caches.disk_cache import DiskCache

ROOT = Path(__file__).parents[3]
LIMIT = 1 << 30
_START = """
import os, random, signal, sys, time
from pathlib import Path
from genlib.data.caches.disk_cache import DiskCache
folder = Path(sys.argv[1])
"""


def _process(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", _START + code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _content(number: int, size: int = 1000) -> bytes:
    return np.random.default_rng(number).bytes(size)


def _never() -> bytes:
    raise AssertionError("it was kept already")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "total"]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "deep" / "cache", LIMIT)


# --- what is kept


@pytest.mark.parametrize("size", [0, 1, 1000, 3 << 20])
def test_what_is_made_is_kept(cache: DiskCache, size: int) -> None:
    assert not cache.has("a")
    assert cache.get("a", lambda: _content(0, size)) == _content(0, size)
    assert cache.has("a")
    assert cache.get("a", _never) == _content(0, size)
    assert bytes(DiskCache(cache.folder, LIMIT).get("a", _never)) == _content(0, size)
    assert len(_files(cache.folder)) == 1


def test_keys_are_any_text(cache: DiskCache) -> None:
    keys = ["", "a", "../../a", "a/b", "é\n\0", "x" * 10_000, "total"]
    for number, key in enumerate(keys):
        cache.get(key, lambda number=number: _content(number))
    assert [bytes(cache.get(key, _never)) for key in keys] == [_content(number) for number in range(len(keys))]
    assert all(path.is_relative_to(cache.folder) for path in cache.folder.parent.rglob("*"))


def test_what_cannot_be_made_is_not_kept(cache: DiskCache) -> None:
    with pytest.raises(UnicodeEncodeError):
        cache.get("a", lambda: "é".encode("ascii"))
    assert not cache.has("a")
    assert _files(cache.folder) == []
    assert cache.get("a", lambda: b"later") == b"later"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut within the head": lambda data: data[:10],
    "cut within the content": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "zeros, as after a power cut": lambda data: bytes(len(data)),
    "a flipped bit": lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
    "another program's": lambda data: b"#!/bin/sh\n" * 200,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_made_again(cache: DiskCache, name: str) -> None:
    cache.get("a", lambda: _content(0))
    (path,) = _files(cache.folder)
    path.write_bytes(DAMAGE[name](path.read_bytes()))
    assert cache.get("a", lambda: _content(0)) == _content(0)
    assert cache.get("a", _never) == _content(0)


def test_the_folder_may_go_at_any_time(cache: DiskCache) -> None:
    for _ in range(2):
        assert cache.get("a", lambda: b"made") == b"made"
        for path in sorted(cache.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        cache.folder.rmdir()
    assert not cache.has("a")


# --- many at once

_ASK = """
def make():
    with open(sys.argv[3], "a") as file:
        file.write(key + "\\n")
    time.sleep(0.02)
    return key.encode() * 10_000
cache = DiskCache(folder, 1 << 30)
keys = [str(number) for number in range(20)]
random.Random(int(sys.argv[2])).shuffle(keys)
while not (folder.parent / "go").exists():
    time.sleep(0.005)
for key in keys:
    assert cache.get(key, make) == key.encode() * 10_000
"""


def test_processes_that_ask_at_once_make_it_once(tmp_path: Path) -> None:
    made = tmp_path / "made"
    processes = [_process(_ASK, tmp_path / "cache", seed, made) for seed in range(6)]
    (tmp_path / "go").touch()
    assert [process.wait(60) for process in processes] == [0] * 6
    assert sorted(made.read_text().split()) == sorted(map(str, range(20)))
    assert len(_files(tmp_path / "cache")) == 20


def test_threads_that_ask_at_once_make_it_once(cache: DiskCache) -> None:
    made: list[int] = []

    def ask(_: int) -> bytes:
        def make() -> bytes:
            made.append(1)
            time.sleep(0.05)
            return b"x" * 100

        return bytes(cache.get("a", make))

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(8))) == {b"x" * 100}
    assert made == [1]


def test_one_who_waits_makes_what_another_failed_at(cache: DiskCache) -> None:
    def fail() -> bytes:
        time.sleep(0.1)
        raise OSError("no network")

    with ThreadPoolExecutor(2) as threads:
        failing = threads.submit(cache.get, "a", fail)
        time.sleep(0.03)
        assert threads.submit(cache.get, "a", lambda: b"made").result(30) == b"made"
        with pytest.raises(OSError, match="no network"):
            failing.result(30)
    assert cache.get("a", _never) == b"made"


def test_different_keys_do_not_wait_for_each_other(cache: DiskCache) -> None:
    def slow() -> bytes:
        assert [cache.get(str(number), lambda: b"quick") for number in range(300)] == [b"quick"] * 300
        return b"slow"

    assert cache.get("slow", slow) == b"slow"


# --- kills

_CUT = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
DiskCache(folder, 1 << 30).get("a", lambda: bytes(8 << 20))
"""


def test_a_death_within_the_write_leaves_no_entry(cache: DiskCache) -> None:
    assert _process(_CUT, cache.folder).wait(60) == -signal.SIGXFSZ
    (left,) = _files(cache.folder)
    assert left.stat().st_size == 1 << 20
    assert not cache.has("a")
    assert cache.get("a", lambda: _content(0)) == _content(0)
    assert cache.get("a", _never) == _content(0)
    assert len(_files(cache.folder)) == 1


_BUSY = """
cache = DiskCache(folder, 64 << 20)
print(1, flush=True)
for number in range(1_000_000):
    key = random.randrange(12)
    assert cache.get(str(key), lambda: bytes([key]) * (8 << 20)) == bytes([key]) * (8 << 20)
"""


def test_kills_at_any_moment_leave_no_wrong_entry(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(6):
        process = _process(_BUSY, tmp_path / "cache")
        assert process.stdout
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.wait(30)
        process.stdout.close()
    cache = DiskCache(tmp_path / "cache", 64 << 20)
    for key in range(12):
        assert cache.get(str(key), lambda key=key: bytes([key]) * (8 << 20)) == bytes([key]) * (8 << 20)
    assert _size(cache.folder) <= 64 << 20


def test_drafts_of_the_dead_go_and_those_of_the_living_stay(cache: DiskCache) -> None:
    assert _process(_CUT, cache.folder).wait(60) == -signal.SIGXFSZ
    dead = _files(cache.folder)

    def make() -> bytes:
        held = set(cache.folder.rglob("*.draft")) - set(dead)
        assert len(held) == 1
        DiskCache(cache.folder, 5000).get("other", lambda: _content(1, 4500))  # over its limit with the one before it
        assert held <= set(_files(cache.folder))
        assert not set(dead) & set(_files(cache.folder))
        return _content(2)

    DiskCache(cache.folder, 5000).get("first", lambda: _content(0, 4500))
    cache.get("b", make)
    assert cache.get("b", _never) == _content(2)


# --- the limit


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100_000)
    for number in range(9):
        cache.get(str(number), lambda: bytes(10_000))
    for number in (0, 1, 2):
        cache.get(str(number), _never)
    cache.get("new", lambda: bytes(10_000))
    assert [number for number in range(9) if not cache.has(str(number))] == [3, 4]  # a tenth of the limit goes at once
    assert cache.has("new")
    for number in range(100):
        cache.get(f"more {number}", lambda: bytes(10_000))
        assert _size(tmp_path) <= 100_000
    assert _size(tmp_path) >= 70_000


def test_an_entry_above_the_limit_drives_no_other_out(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100_000)
    cache.get("small", lambda: b"small")
    assert cache.get("large", lambda: bytes(100_000)) == bytes(100_000)
    assert cache.has("small")
    assert not cache.has("large")
    assert DiskCache(tmp_path / "none", 0).get("a", lambda: b"x") == b"x"
    assert _files(tmp_path / "none") == []


def test_a_smaller_limit_holds_from_the_next_entry_on(tmp_path: Path) -> None:
    for number in range(10):
        DiskCache(tmp_path, 100_000).get(str(number), lambda: bytes(9000))
    DiskCache(tmp_path, 30_000).get("new", lambda: bytes(9000))
    assert _size(tmp_path) <= 30_000
    assert DiskCache(tmp_path, 30_000).has("new")


_FILL = """
cache = DiskCache(folder, 2_000_000)
for number in range(300):
    size = random.randrange(1000, 100_000)
    assert len(cache.get(f"{os.getpid()} {number}", lambda: bytes(size))) == size
"""


def test_the_limit_holds_for_many_processes(tmp_path: Path) -> None:
    processes = [_process(_FILL, tmp_path) for _ in range(4)]
    most = 0
    while any(process.poll() is None for process in processes):
        with suppress(FileNotFoundError):
            most = max(most, _size(tmp_path))
        time.sleep(0.01)
    assert [process.wait() for process in processes] == [0] * 4
    assert most <= 2_000_000 + 4 * 100_100  # what each of them is just writing
    assert 1_000_000 < _size(tmp_path) <= 2_000_000


@pytest.mark.parametrize("noted", [b"", b"\xff" * 16, b"\0" * 16, b"junk", b"\x7f" * 64])
def test_a_wrong_sum_is_counted_anew(tmp_path: Path, noted: bytes) -> None:
    cache = DiskCache(tmp_path, 100_000)
    for number in range(9):
        cache.get(str(number), lambda: bytes(10_000))
    (tmp_path / "total").write_bytes(noted)
    for number in range(9):
        cache.get(f"more {number}", lambda: bytes(10_000))
    assert 50_000 < _size(tmp_path) <= 100_000


def test_what_goes_is_still_read_to_its_end(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 3_000_000)
    held = [cache.get("a", lambda: _content(0, 2_000_000)), cache.get("a", _never)]
    cache.get("b", lambda: bytes(2_000_000))
    assert not cache.has("a")
    assert [bytes(content) for content in held] == [_content(0, 2_000_000)] * 2


# --- a disk that does not take it


def test_a_full_disk_means_no_cache_and_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        cache = DiskCache(disk / "cache", LIMIT)
        with caplog.at_level(logging.WARNING):
            for number in range(50):
                assert cache.get(str(number), lambda number=number: _content(number, 100_000)) == _content(number, 100_000)
        assert [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()] == [caplog.messages[0]]
        kept = [number for number in range(50) if cache.has(str(number))]
        assert 5 <= len(kept) <= 10
        assert all(cache.get(str(number), _never) == _content(number, 100_000) for number in kept)
        assert not list(disk.rglob("*.draft"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_may_not_grow_means_no_cache(cache: DiskCache, caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        for _ in range(3):
            assert cache.get("a", lambda: bytes(1 << 20)) == bytes(1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert _files(cache.folder) == []
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_means_no_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = DiskCache(tmp_path / "file" / "cache", LIMIT)
    assert [cache.get("a", lambda: b"made") for _ in range(3)] == [b"made"] * 3
    assert not cache.has("a")
    assert len(caplog.records) == 1
