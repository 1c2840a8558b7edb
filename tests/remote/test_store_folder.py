"""A folder of a store that is written to, against a server that speaks S3."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genlib.remote import store_folder
from genlib.remote.clients import RemoteSettings
from genlib.remote.store_folder import StoreFolder, checked_address, is_address
from tests.remote.servers import FileServer, object_store, stall, status

QUICK = RemoteSettings(
    tries=2, total_seconds=2.0, request_seconds=0.5, stall_seconds=0.5, connect_seconds=0.5, first_pause_seconds=0.01, client_tries=1
)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with object_store(monkeypatch) as client:
        yield client


@pytest.fixture
def folder(s3: Any) -> StoreFolder:
    bucket = f"store-{time.time_ns()}"
    s3.create_bucket(Bucket=bucket)
    return StoreFolder(f"s3://{bucket}/runs/mine")


@pytest.mark.parametrize("size", [0, 1, 5 << 20, (12 << 20) + 1])
def test_a_file_goes_up_and_comes_down_in_parts(tmp_path: Path, folder: StoreFolder, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(store_folder, "_PART_BYTES", 5 << 20)  # the least that S3 takes
    (tmp_path / "up").write_bytes(content := os.urandom(size))
    folder.upload(tmp_path / "up", "a b/weights")
    folder.download("a b/weights", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content
    assert {name: one.size for name, one in folder.files().items()} == {"a b/weights": size}


def test_files_are_listed_read_moved_and_deleted(folder: StoreFolder) -> None:
    assert folder.files() == {}
    assert folder.read("one") is None
    folder.write("one", b"1")
    folder.write("deep/two", b"2")
    (folder.__class__(f"{folder.url}-other")).write("three", b"3")  # its name begins like ours, and it is another folder
    assert sorted(folder.files()) == ["deep/two", "one"]
    folder.move("one", "deep/one")
    assert (folder / "deep").read("one") is not None
    folder.delete(["deep/one", "deep/two", "never there"])
    assert folder.files() == {}


def test_a_write_on_a_condition_is_refused_where_another_came_first(folder: StoreFolder) -> None:
    tag = folder.create("lock", b"mine")
    assert tag
    assert folder.create("lock", b"theirs") is None
    assert folder.replace("lock", b"mine again", ("another", "")) is None
    assert (new := folder.replace("lock", b"mine again", tag))
    assert folder.read("lock") == (b"mine again", new)
    assert folder.replace("never there", b"mine", tag) is None


def test_a_bucket_that_is_not_there_is_said(s3: Any, tmp_path: Path) -> None:
    missing = StoreFolder("s3://not-there/runs/mine", QUICK)
    for call in (missing.files, lambda: missing.write("a", b""), lambda: missing.create("a", b"")):
        with pytest.raises(FileNotFoundError, match=r"s3://not-there/runs/mine.*: there is no such bucket; make it, or name another"):
            call()


@pytest.mark.parametrize("fault", [stall(), status(500), status(503)])
def test_a_store_that_hangs_or_fails_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with FileServer() as server:
        for name, value in {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "KEYID", "AWS_SECRET_ACCESS_KEY": "SECRET"}.items():
            monkeypatch.setenv(name, value)
        server.faults.extend([fault] * 50)
        begin = time.monotonic()
        with pytest.raises(OSError, match=r"^s3://hang-\d+/runs/mine/file: .*, [23] times? in [\d.]+ s$") as caught:
            StoreFolder(f"s3://hang-{time.time_ns()}/runs/mine", QUICK).upload(tmp_path / "file", "file")
        assert time.monotonic() - begin < 10
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://host/run", "'ftp://host/run' begins with none of s3://, gs://, az://; write a folder of a store like s3://BUCKET/runs/NAME"),
        ("http://host/run", "begins with none of s3://, gs://, az://"),
        ("s3://", "names no bucket"),
        ("s3:///run", "names no bucket"),
        ("gs://bucket", "names no folder in its bucket; write a folder of a store like gs://BUCKET/runs/NAME"),
        ("s3://bucket/", "names no folder in its bucket"),
        ("s3://bucket/../run", "names no folder in its bucket"),
    ],
)
def test_what_is_no_address_is_refused(text: str, said: str) -> None:
    assert is_address(text)
    with pytest.raises(ValueError, match=r"names no|begins with") as caught:
        checked_address(text)
    assert said in str(caught.value)


def test_an_address_has_no_slash_at_its_end() -> None:
    assert checked_address("s3://bucket/runs/mine//") == "s3://bucket/runs/mine"
    assert not is_address("/runs/mine")
    assert not is_address("runs:mine")
