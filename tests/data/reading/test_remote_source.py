"""Training data at URLs: the same batches as from local files, through faults, from the node's disk the second time, never from a changed object."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from genlib.config import DataConfig
from genlib.data.index import sidecar_files
from genlib.data.source import open_source
from genlib.remote.remote_file import RemoteFile
from tests.data.shards import write_set
from tests.remote.servers import FileServer, object_store, reset, status, truncate

SAMPLES, SHARDS = 230, 5


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", SAMPLES, per_shard=SAMPLES // SHARDS)


@pytest.fixture
def server(local: Path):
    with FileServer({f"/{path.name}": path.read_bytes() for path in local.glob("*.tar")}) as server:
        yield server


def where(server: FileServer) -> str:
    return f"{server.url}/{{00000..{SHARDS - 1:05d}}}.tar"


def take(config: DataConfig, count: int = 8, size: int = 32, **how) -> list[dict[str, torch.Tensor]]:
    stream = open_source(config).batches("train", size, **how)
    return [{name: value.clone() for name, value in batch.items()} for batch in itertools.islice(stream, count)]


def equal(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def sidecars(server: FileServer) -> list[bytes]:
    """What the cache folder holds for each shard, in their order."""
    return [next(sidecar_files.sidecars(RemoteFile(f"{server.url}/{number:05d}.tar"))).read_bytes() for number in range(SHARDS)]


@pytest.mark.parametrize("more", [{}, {"readers": 2}, {"disk_cache_gb": 0.0}, {"cache_mb": 0, "disk_cache_gb": 0.0, "readers": 1}])
def test_batches_are_those_of_local_files(local: Path, server: FileServer, more: dict) -> None:
    expected = take(DataConfig(train=str(local)), start=77, rank=1, world=3)
    assert equal(take(DataConfig(train=where(server), **more), start=77, rank=1, world=3), expected)


def test_faults_heal_and_change_nothing(local: Path, server: FileServer) -> None:
    config = DataConfig(train=where(server), cache_mb=0)
    open_source(config)
    server.faults.extend([status(500), reset(100), status(503), truncate(50)] * 3)
    assert equal(take(config), take(DataConfig(train=str(local))))
    assert not server.faults


def test_the_second_epoch_asks_for_nothing(server: FileServer) -> None:
    config = DataConfig(train=where(server), cache_mb=0)
    take(config)
    asked = len(server.asked)
    again = take(config, start=SAMPLES)
    assert len(again) == 8
    assert [one.span for one in server.asked[asked:] if one.span not in ((0, 1), None)] == []  # but for the stamps


def test_the_order_reads_the_same_bytes_through_small_pieces(local: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlib.data.reading.remote_segments.SMALL_SEGMENT_BYTES", 5000)
    assert equal(take(DataConfig(train=where(server), cache_mb=0)), take(DataConfig(train=str(local))))


def test_an_index_beside_the_shards_spares_reading_them(local: Path, server: FileServer, cache: Path) -> None:
    config = DataConfig(train=where(server))
    spec = open_source(config).spec
    for path, sidecar in zip(sorted(local.glob("*.tar")), sidecars(server), strict=True):
        server.files[f"/{path.name}.idx"] = sidecar
    shutil.rmtree(cache)
    server.asked.clear()
    assert open_source(config).spec == spec
    assert all(one.span == (0, 1) for one in server.asked if not one.path.endswith(".idx"))


def test_an_object_that_changes_under_a_run_stops_it(server: FileServer) -> None:
    source = open_source(DataConfig(train=where(server), cache_mb=0, disk_cache_gb=0))
    for name in server.files:
        server.files[name] = server.files[name].replace(b"picture", b"nothing")
    with pytest.raises(ValueError, match=r"not what it was|changed"):
        next(source.batches("train", 32))


def test_what_is_not_there_is_said(server: FileServer) -> None:
    with pytest.raises(FileNotFoundError, match=r"00007\.tar"):
        open_source(DataConfig(train=f"{server.url}/00007.tar"))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with object_store(monkeypatch) as client:
        yield client


@pytest.mark.parametrize("readers", [0, 2])  # a process keeps its clients by bucket: each server's has a name of its own
def test_a_folder_of_an_object_store_is_a_set_with_its_index_beside_it(local: Path, store: Any, cache: Path, readers: int) -> None:
    name = f"data-{readers}"
    store.create_bucket(Bucket=name)
    for path in local.glob("*.tar"):
        store.upload_file(str(path), name, f"set/train-{path.name}")
    store.upload_file(str(next(local.glob("*.tar"))), name, "set/validation-00000.tar")
    store.put_object(Bucket=name, Key="set/00000_stats.json", Body=b"{}")
    config = DataConfig(train=f"s3://{name}/set", readers=readers)
    assert equal(take(config), take(DataConfig(train=str(local))))
    assert open_source(config).num_samples("validation") == SAMPLES // SHARDS
    keys = [entry["Key"] for entry in store.list_objects_v2(Bucket=name)["Contents"]]
    assert sum(key.endswith(".tar.idx") for key in keys) == SHARDS + 1
    shutil.rmtree(cache)
    assert open_source(config).spec.num_samples == SAMPLES
