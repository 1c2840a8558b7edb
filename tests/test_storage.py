"""Lines that wait while a disk is full; folders that go away; what is said of both."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from genlib.storage import Held, LineFile, StorageError, file_system, lacks_room, refusal, stopped
from tests.small_disk import SmallDisk, mounted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", 256) as disk:
        yield disk


def lines(first: int, last: int, size: int = 40) -> str:
    return "".join(f"{number}".ljust(size, ".") + "\n" for number in range(first, last))


def numbers(path: Path) -> list[int]:
    assert path.read_text()[-1:] in ("", "\n")
    return [int(line.rstrip(".")) for line in path.read_text().splitlines()]


def test_lines_wait_while_the_disk_is_full_and_none_is_missing_or_twice(disk: SmallDisk) -> None:
    file, rng, written = LineFile(disk.path / "rows"), random.Random(0), 0
    for episode in range(20):
        disk.fill()
        for _ in range(8):
            more = written + rng.randint(1, 40)
            file.append(lines(written, more, rng.randint(8, 60)))
            written = more
            assert numbers(file.path) == list(range(len(numbers(file.path))))  # whole lines at any moment
        assert file.waiting
        disk.free()
        if episode % 2:
            assert file.append()
    assert file.append()
    assert numbers(file.path) == list(range(written))
    assert not file.waiting


@pytest.mark.parametrize("limit", [1, 40, 41, 42, 100, 4096])
def test_half_a_line_is_taken_back(tmp_path: Path, limit: int) -> None:
    file, before = LineFile(tmp_path / "rows"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        assert not file.append(lines(0, 200))
        assert file.path.stat().st_size == limit // 41 * 41
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.append(lines(200, 201))
    assert numbers(file.path) == list(range(201))


def test_it_is_said_once_each_time_with_file_mount_and_free_space(disk: SmallDisk) -> None:
    said: list[str] = []
    file = LineFile(disk.path / "rows", said.append)
    for first in (0, 1000):
        disk.fill()
        for number in range(first, first + 500):
            file.append(lines(number, number + 1))
        disk.free()
        assert file.append()
    cannot = f"{file.path} cannot be written: No space left on device; the file system at {disk.path} has 0.0 MB of 0.3 MB free"
    assert [text.startswith(cannot) for text in said] == [True, False, True, False]
    assert said[1] == said[3] == f"{file.path} is written again: no line is missing"


def test_above_the_bound_the_oldest_stay_and_the_others_are_counted(disk: SmallDisk) -> None:
    said: list[str] = []
    file = LineFile(disk.path / "rows", said.append, most_bytes=4100)
    disk.fill()
    (disk.path / "rows").touch()
    for number in range(300):
        file.append(lines(number, number + 1))
    assert len(file.waiting) <= 4100
    lost = file.lost
    disk.free()
    assert file.append(lines(300, 301))
    assert said[-1] == f"{file.path} is written again: {lost + 1} lines are missing, as too many waited"
    assert numbers(file.path) == list(range(300 - lost))
    assert file.append(lines(301, 302))
    assert numbers(file.path)[-1] == 301


def test_a_disk_that_becomes_read_only_is_one_that_is_full(disk: SmallDisk) -> None:
    said: list[str] = []
    file = LineFile(disk.path / "rows", said.append)
    assert file.append(lines(0, 1))
    disk.remount("ro")
    assert not file.append(lines(1, 2))
    assert "Read-only file system" in said[0]
    assert "Read-only file system" in refusal(disk.path)
    disk.remount("rw")
    assert file.append()
    assert numbers(file.path) == [0, 1]
    assert refusal(disk.path) == ""
    assert [path.name for path in disk.path.iterdir()] == ["rows"]


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("other"))


def replaced(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize("how", [removed, renamed, replaced, a_file])
def test_a_folder_that_goes_is_named(tmp_path: Path, how) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    with Held(tmp_path / "run", folder) as held:
        held.check()
        how(folder)
        with pytest.raises(StorageError, match=f"the folder {folder} is gone: it was removed, renamed or unmounted"):
            held.check()


def test_what_is_unmounted_is_gone(disk: SmallDisk) -> None:
    with Held(disk.path) as held:
        subprocess.run(["umount", "-l", str(disk.path)], check=True)
        with pytest.raises(StorageError, match="is gone"):
            held.check()


def test_lines_for_a_folder_that_is_gone_make_none(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "run" / "rows")
    with pytest.raises(FileNotFoundError):
        file.append(lines(0, 1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_errors_that_no_retry_cures_are_told_from_others(number: int) -> None:
    assert lacks_room(OSError(number, os.strerror(number)))
    assert lacks_room(RuntimeError(f"worker 0: {OSError(number, os.strerror(number))}"))
    assert not lacks_room(OSError(errno.ECONNRESET, "reset"))
    assert not lacks_room(ValueError("no space left in this sentence"))


def test_what_safetensors_says_of_a_full_disk_is_known(disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(Exception) as caught:  # noqa: PT011  (of a class that is no part of its interface)
        save_file({"a": zeros(10_000)}, disk.path / "a.safetensors")
    assert lacks_room(caught.value)
    assert file_system(disk.path) in str(stopped(caught.value, disk.path))
