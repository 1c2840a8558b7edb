"""A process that is killed leaves nothing that the next one trips over: no lock, no half of a file, no reader, no name in shared memory."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from genlib.config import DataConfig
from genlib.data.caches.disk_cache import DiskCache
from genlib.data.index import shard_index, validation
from genlib.data.source import open_source
from tests.data.reader_pool.pool_work import alive, children, eventually
from tests.data.shards import write_set
from tests.remote.servers import FileServer

ROOT = Path(__file__).parents[3]
COUNT = 60

_INDEX = """
from genlib.data.index import shard_index
from genlib.data.index import tar
from genlib.data.index.storage_path import Path
scan = tar.scan
def halted(data):
    print("holds the lock", flush=True)
    time.sleep(600)
tar.scan = halted
shard_index.facts(Path(sys.argv[1]))
"""

_RUN = """
from genlib.config import DataConfig
from genlib.data.source import open_source
if __name__ == "__main__":
    print("begins", flush=True)
    for batch in open_source(DataConfig(train=sys.argv[1], readers=int(sys.argv[2]), cache_mb=0)).batches("train", 4):
        print("batch", flush=True)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    shards = write_set(tmp_path / "far", COUNT, per_shard=20)
    with FileServer({f"/{path.name}": path.read_bytes() for path in shards.glob("*.tar")}) as server:
        yield server


def started(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own, once it has said its first word."""
    command = [sys.executable, "-c", "import sys, time; sys.path.insert(0, '.')" + script, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    assert process.stdout.readline()
    return process


def killed(process: subprocess.Popen[str]) -> None:
    """Kills it; all that it had started must go by itself."""
    readers = children(process.pid)
    process.kill()
    process.wait(30)
    assert process.stdout
    process.stdout.close()
    assert eventually(lambda: not any(map(alive, readers)))


def whole(where: str, readers: int = 0) -> None:
    """One epoch has each sample once, with its own pixels."""
    source = open_source(DataConfig(train=where, readers=readers, cache_mb=0))
    stream = source.batches("train", 4)
    batches = [{name: value.clone() for name, value in next(stream).items()} for _ in range(COUNT // 4)]
    stream.close()
    labels = torch.cat([batch["label"] for batch in batches])
    assert sorted(labels.tolist()) == list(range(COUNT))
    assert torch.equal((torch.cat([batch["image"] for batch in batches])[:, 0, 0, 0] * 255).round().long(), labels)
    assert not source.failures


def test_a_kill_while_a_shard_is_indexed_leaves_its_lock_free(tmp_path: Path, cache: Path) -> None:
    shards = write_set(tmp_path / "set", COUNT, per_shard=COUNT)
    first = started(_INDEX, shards / "00000.tar")
    assert list((cache / "index").glob("*.lock"))
    assert not list(shards.glob("*.idx"))
    killed(first)
    killed(started(_INDEX, shards / "00000.tar"))  # which got as far as the first
    whole(str(shards))


def test_a_kill_within_the_write_of_a_sidecar_leaves_none(tmp_path: Path, cache: Path) -> None:
    """The file may not grow beyond a few bytes, and its writer dies of that."""
    shards = write_set(tmp_path / "set", COUNT, per_shard=COUNT)
    script = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
from genlib.data.index import shard_index
from genlib.data.index.storage_path import Path
print("begins", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
shard_index.facts(Path(sys.argv[1]))
"""
    process = started(script, shards / "00000.tar")
    assert process.wait(60) < 0
    killed(process)
    assert not (shards / "00000.tar.idx").exists()
    whole(str(shards))
    assert validation.read(shards / "00000.tar.idx", {"version": shard_index.INDEX_VERSION})


@pytest.mark.parametrize("readers", [0, 2])
def test_kills_at_any_moment_of_a_run_at_a_url(server: FileServer, cache: Path, readers: int) -> None:
    before = children()
    where, chance, names = f"{server.url}/{{00000..00002}}.tar", random.Random(readers), sorted(os.listdir("/dev/shm"))
    server.hold_seconds = 0.02
    for batches in (0, 2):
        process = started(_RUN, where, readers)
        assert process.stdout
        for _ in range(batches):
            process.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        killed(process)
    server.hold_seconds = 0.0
    whole(where, readers)
    assert sorted(os.listdir("/dev/shm")) == names
    DiskCache(cache / "pieces", 1).get("any", lambda: b"")  # over its limit: looks at all entries
    assert not list(cache.rglob("*.draft"))
    assert children() == before
