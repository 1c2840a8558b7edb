"""Caches whose folder goes away, or whose disk becomes read-only, while they are used: what they would have kept is made again."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from genlib.data.caches.disk_cache import DiskCache
from tests.small_disk import mounted


def test_a_cache_whose_folder_goes_is_made_again(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 1 << 20)
    for round_number in range(3):
        for number in range(5):
            assert cache.get(str(number), lambda number=number: bytes([number])) == bytes([number])
        assert cache.has("4")
        shutil.rmtree(tmp_path / "cache")
        if round_number == 1:
            (tmp_path / "cache").write_text("a file now")
            assert cache.get("5", lambda: b"made") == b"made"
            (tmp_path / "cache").unlink()
            cache = DiskCache(tmp_path / "cache", 1 << 20)  # the other one rests for a while


def test_a_cache_on_a_disk_that_becomes_read_only_is_read_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with mounted(tmp_path / "disk", 256) as disk, caplog.at_level(logging.WARNING):
        cache = DiskCache(disk.path / "cache", 1 << 20)
        cache.get("a", lambda: b"a")
        disk.remount("ro")
        for number in range(5):
            assert cache.get(str(number), lambda: b"made") == b"made"
        assert cache.get("a", lambda: b"never") == b"a"
        assert [
            f"{cache.folder} cannot be written: Read-only file system; the file system at {disk.path} has" in text for text in caplog.messages
        ] == [True]
