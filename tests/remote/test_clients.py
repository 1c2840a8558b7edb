"""Object stores: S3 by a server of its own, the others by what they ask a plain server for."""

from __future__ import annotations

import json
import os
import traceback
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genlib.remote import remote_file
from genlib.remote.remote_file import ObjectChangedError, RemoteFile, RemoteSettings
from tests.remote import servers
from tests.remote.servers import FileServer

CONTENT = np.random.default_rng(0).bytes(300_000)
QUICK = RemoteSettings(tries=4, first_pause_seconds=0.01, longest_pause_seconds=0.05, request_bytes=100_000)
_SET = ("AWS_", "GOOGLE_", "AZURE_", "HF_", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without anybody's credentials."""
    for name in [name for name in os.environ if name.startswith(_SET)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """A server that speaks S3."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(bare: pytest.MonkeyPatch, s3_url: str, request: pytest.FixtureRequest) -> str:
    """URL of an empty bucket, whose keys are in the environment."""
    name = request.node.name.replace("_", "-").strip("[]")[:60]
    bare.setenv("AWS_ENDPOINT_URL", s3_url)
    bare.setenv("AWS_ACCESS_KEY_ID", "KEYID")
    bare.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    urllib.request.urlopen(urllib.request.Request(f"{s3_url}/{name}", method="PUT")).close()
    return f"s3://{name}"


def _put(url: str, content: bytes = CONTENT) -> RemoteFile:
    file = RemoteFile(url)
    assert remote_file.put(file, content, settings=QUICK)
    return file


# --- S3


def test_what_is_put_is_read(bucket: str) -> None:
    file = _put(f"{bucket}/d/a b+c#%é.tar")
    stamp = remote_file.stat(file, settings=QUICK)
    assert stamp.size == len(CONTENT)
    ranges = [(299_000, 300_000), (0, 512), (5, 5), (600, 250_000)]
    assert remote_file.read(file, ranges, stamp, settings=QUICK) == [CONTENT[start:end] for start, end in ranges]
    assert b"".join(remote_file.stream(file, 70_000, settings=QUICK)) == CONTENT
    _put(file.url, CONTENT[::-1])
    with pytest.raises(ObjectChangedError):
        remote_file.read(file, ranges, stamp, settings=QUICK)


def test_an_empty_object(bucket: str) -> None:
    file = _put(f"{bucket}/empty", b"")
    assert remote_file.stat(file, settings=QUICK).size == 0
    assert list(remote_file.stream(file, settings=QUICK)) == []


def test_a_missing_object_or_bucket(bucket: str) -> None:
    for url in (f"{bucket}/nothing.tar", "s3://no-such-bucket/a.tar"):
        with pytest.raises(FileNotFoundError, match=r"no such (file|bucket)"):
            remote_file.stat(RemoteFile(url), settings=QUICK)
        with pytest.raises(FileNotFoundError):
            list(remote_file.stream(RemoteFile(url), settings=QUICK))


def test_folders_and_stars_are_looked_up(bucket: str) -> None:
    names = [f"d/{split}-{number:05}.tar" for split in ("train", "test") for number in (0, 1, 7)]
    for name in [*names, "d/train-00000.tar.idx", "d/deeper/train-00002.tar", "top.tar"]:
        _put(f"{bucket}/{name}", b"x")
    listed = {
        "d/": sorted([*names, "d/train-00000.tar.idx"]),
        "d/*.tar": sorted(names),
        "d/train-*.tar": names[:3],
        "d/{test,train}-*1.tar": [names[4], names[1]],
        "d/none-*": [],
        "nowhere/": [],
        "": ["top.tar"],
    }
    for pattern, found in listed.items():
        assert [file.url for file in remote_file.expand(f"{bucket}/{pattern}", settings=QUICK)] == [f"{bucket}/{name}" for name in found]
    with pytest.raises(ValueError, match="last part alone"):
        remote_file.expand(f"{bucket}/*/a.tar", settings=QUICK)


def test_many_objects_are_listed_over_pages(bucket: str) -> None:
    for number in range(1100):
        _put(f"{bucket}/{number:05}.tar", b"")
    assert len(remote_file.expand(f"{bucket}/*.tar", settings=QUICK)) == 1100


def test_a_profile_gives_its_keys(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("boto3")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[me]\naws_access_key_id = PROFILEKEY\naws_secret_access_key = x\n")
    with FileServer({"/profiled/a.tar": CONTENT}) as server:
        bare.setenv("AWS_PROFILE", "me")
        bare.setenv("AWS_ENDPOINT_URL", server.url)
        assert remote_file.read(RemoteFile("s3://profiled/a.tar"), [(0, 9)], settings=QUICK) == [CONTENT[:9]]
        assert "PROFILEKEY" in server.asked[0].headers["authorization"]


# --- every store, against a plain server


_ACCOUNT = json.dumps({"gcs_base_url": "URL", "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""})
STORES = {
    "s3": {"AWS_ENDPOINT_URL": "URL", "AWS_ACCESS_KEY_ID": "xyzzy-name", "AWS_SECRET_ACCESS_KEY": "xyzzy-key"},
    "gs": {"GOOGLE_BASE_URL": "URL", "GOOGLE_SERVICE_ACCOUNT_KEY": _ACCOUNT},
    "az": {"AZURE_STORAGE_ENDPOINT": "URL", "AZURE_STORAGE_ACCOUNT_NAME": "me", "AZURE_SKIP_SIGNATURE": "true"},
}


@pytest.fixture(params=STORES)
def plain(request: pytest.FixtureRequest, bare: pytest.MonkeyPatch) -> Iterator[tuple[FileServer, RemoteFile]]:
    """A server that a store's client asks, and a file there."""
    with FileServer({"/plain/d/a.tar": CONTENT}) as server:
        for name, value in STORES[request.param].items():
            bare.setenv(name, value.replace("URL", server.url))
        yield server, RemoteFile(f"{request.param}://plain/d/a.tar")


def _fresh(server: FileServer) -> RemoteSettings:
    """RemoteSettings no other test has, so that the client is made of this test's environment."""
    return replace(QUICK, gap_bytes=int(server.url.rpartition(":")[2]))


def test_faults_of_a_store_heal(plain: tuple[FileServer, RemoteFile]) -> None:
    server, file = plain
    stamp = remote_file.stat(file, settings=_fresh(server))
    for fault in (servers.status(500), servers.status(503), servers.reset(1000), servers.truncate(1000), servers.other_range(1)):
        server.faults.append(fault)
        assert remote_file.read(file, [(100, 90_000)], stamp, settings=_fresh(server)) == [CONTENT[100:90_000]]


def test_lasting_faults_of_a_store_end_in_a_sentence(plain: tuple[FileServer, RemoteFile]) -> None:
    server, file = plain
    lasting = {servers.status(500): "500 Internal Server Error, 4 times", servers.status(403): "access is refused", servers.truncate(9): "broke"}
    for fault, text in lasting.items():
        server.faults.extend([fault] * 4)
        with pytest.raises(OSError, match=text) as caught:
            remote_file.read(file, [(100, 90_000)], settings=_fresh(server))
        server.faults.clear()
        assert "\n" not in str(caught.value)
        assert "xyzzy" not in "".join(traceback.format_exception(caught.value))


def test_a_store_without_rights_to_write(plain: tuple[FileServer, RemoteFile]) -> None:
    server, file = plain
    server.faults.append(servers.status(403))
    assert not remote_file.put(file.sibling("a.tar.idx"), b"x", settings=_fresh(server))
    server.faults.extend([servers.status(500)] * 4)
    with pytest.raises(OSError, match="4 times"):
        remote_file.put(file.sibling("a.tar.idx"), b"x", settings=_fresh(server))


def test_an_account_that_lacks(bare: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        remote_file.stat(RemoteFile("az://lacking/a.tar"), settings=QUICK)


# --- the Hub


def test_files_of_the_hub(bare: pytest.MonkeyPatch) -> None:
    folder = "/datasets/me/pictures/resolve/main/sub"
    entries = [{"type": "file", "path": f"sub/{name}", "size": 1, "oid": "0" * 40} for name in ("b.tar", "a.tar", "c.txt")]
    listing = json.dumps([*entries, {"type": "directory", "path": "sub/deeper", "oid": "1" * 40}]).encode()
    with FileServer({}) as moved, FileServer({}) as hub:
        moved.files["/blob"] = CONTENT
        hub.files["/api/datasets/me/pictures/tree/main/sub"] = listing
        bare.setenv("HF_ENDPOINT", hub.url)
        bare.setenv("HF_TOKEN", "hf_xyzzy")
        url = "hf://datasets/me/pictures/sub"
        assert [file.url for file in remote_file.expand(f"{url}/*.tar", settings=QUICK)] == [f"{url}/a.tar", f"{url}/b.tar"]
        assert len(remote_file.expand(f"{url}/", settings=QUICK)) == 3
        hub.faults.append(servers.status(302, Location=f"{moved.url}/blob"))
        assert remote_file.read(RemoteFile(f"{url}/a.tar"), [(100, 200)], settings=QUICK) == [CONTENT[100:200]]
        assert hub.asked[-1].path == f"{folder}/a.tar"
        assert hub.asked[-1].headers["authorization"] == "Bearer hf_xyzzy"
        assert "authorization" not in moved.asked[-1].headers
        with pytest.raises(FileNotFoundError):
            remote_file.stat(RemoteFile(f"{url}/other.tar"), settings=QUICK)
        with pytest.raises(FileNotFoundError):
            remote_file.expand("hf://datasets/me/pictures@v1.0/nowhere/", settings=QUICK)
        hub.faults.append(servers.status(403))
        with pytest.raises(PermissionError, match="the Hub does not list it") as caught:
            remote_file.expand(f"{url}/", settings=QUICK)
        assert "xyzzy" not in str(caught.value)
        assert not remote_file.put(RemoteFile(f"{url}/new"), b"x")
