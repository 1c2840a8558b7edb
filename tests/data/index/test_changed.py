"""Files that are no files, or that change where they lie: a sentence or a counted reason each, no process is lost, and nothing hangs."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from genlib.config import DataConfig
from genlib.data import dataset_cache
from genlib.data.caches.disk_cache import DiskCache
from genlib.data.codecs.encode import SkippedSample, file_bytes
from genlib.data.importers.table import open_table
from genlib.data.index import shard_index, storage_path, validation
from genlib.data.index.content import FileChangedError, FileContent
from genlib.data.shards.discovery import all_shards
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import open_and_cache, open_source
from genlib.files import open_regular
from jobs.prepare.check import verify
from jobs.prepare_data import main
from tests.data.shards import pair, write_set, write_tar

ROOT = Path(__file__).parents[3]
CHANGED, UNREADABLE = "changed since it was indexed", "unreadable shard"


@pytest.fixture(autouse=True)
def _no_hang(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(600 if request.node.get_closest_marker("slow") else 60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has 107 bytes at most
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": _socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "No such file": lambda path: path.symlink_to("nowhere"),
    "Too many levels": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_that_is_no_file_is_a_sentence(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", 10)
    KINDS[kind](folder / "a.tar")
    with pytest.raises(ValueError, match=rf"shard .*a\.tar cannot be opened \(.*{kind}.*\); repair it, or take it out") as caught:
        open_source(DataConfig(train=str(folder)))
    assert "\n" not in str(caught.value)
    for verb in ("verify", "look"):
        with pytest.raises(SystemExit) as ended:
            main([verb, str(folder)])
        assert ended.value.code == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert said[0].startswith("error: ")
        assert kind in said[0]


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a socket", "a device"])
def test_what_a_pattern_names_is_not_passed_over_for_its_kind(tmp_path: Path, kind: str) -> None:
    folder = write_set(tmp_path / "set", 10)
    KINDS[kind](folder / "00001.tar")
    for where in (f"{folder}/{{00000..00001}}.tar", f"{folder}/*.tar"):
        with pytest.raises(ValueError, match=rf"00001\.tar cannot be opened \(it is {kind} and no regular file\)"):
            ShardSet.open(all_shards(where))


def test_a_pipe_named_alone_is_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(ValueError, match="it is a pipe and no regular file"):
        open_source(DataConfig(train=str(tmp_path / "a.tar")))


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_of_strange_kinds_are_refused_or_absent(tmp_path: Path, kind: str) -> None:
    folder = write_set(tmp_path / "set", 10)
    strange = tmp_path / "strange"
    KINDS[kind](strange)
    with pytest.raises(SkippedSample, match=r"no file|missing|unreadable"):
        file_bytes(strange, 100, "image")
    table = tmp_path / "table.csv"
    KINDS[kind](table)
    with pytest.raises(ValueError, match=rf"there is no table .*{kind}"):
        open_table(table, "path")
    cache = DiskCache(tmp_path / "pieces", 1 << 20)
    cache.get("key", lambda: b"made")
    (entry,) = (path for path in (tmp_path / "pieces").rglob("*") if path.is_file() and path.name != "total")
    entry.unlink()
    KINDS[kind](entry)
    assert bytes(cache.get("key", lambda: b"again")) == b"again"
    kept = open_source(DataConfig(train=str(folder))).encoded_set("identity", str(tmp_path / "encoded"))
    kept.folder.mkdir(parents=True)
    KINDS[kind](kept.path(0))
    assert kept.missing() == [0]
    config = DataConfig(train=str(folder))
    open_and_cache(config, tmp_path)
    (tmp_path / "train.set").unlink()
    KINDS[kind](tmp_path / "train.set")
    assert not dataset_cache.read_sets(tmp_path, config)
    assert open_source(config, tmp_path).num_samples("train") == 10
    KINDS[kind](folder / "dataset.json")
    if kind == "No such file":
        assert open_source(config).num_samples("train") == 10
    else:
        with pytest.raises(ValueError, match=rf"dataset.json cannot be read \(.*{kind}.*\); delete it"):
            open_source(config)


def test_a_table_that_is_one_endless_line_takes_no_memory(tmp_path: Path) -> None:
    for ending in ("csv", "jsonl"):
        path = tmp_path / f"table.{ending}"
        path.write_bytes(b"")
        os.truncate(path, 1 << 40)
        with pytest.raises(ValueError, match=r"line 1 has 64 MB or more"):
            open_table(path, "path")


def test_a_table_that_changes_while_it_is_converted_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("path\na.png\nb.png\n")
    parts = iter(open_table(path, "path").cut(1))
    next(parts)
    path.write_text("path\na.png\nc.png\n")
    with pytest.raises(ValueError, match="changed while it was read; start again"):
        list(parts)


def rewritten(path: Path, entries: list, how: Callable[[Path, bytes], object] | None = None) -> None:
    """Other bytes of the same number, with the same time."""
    before = path.stat()
    write_tar(path.with_suffix(".new"), entries)
    data = path.with_suffix(".new").read_bytes()
    assert len(data) == before.st_size
    path.with_suffix(".new").unlink()
    (how or Path.write_bytes)(path, data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path, data: bytes) -> None:
    """Written beside and renamed."""
    path.with_suffix(".part").write_bytes(data)
    path.with_suffix(".part").replace(path)


TEN, OTHERS = [entry for number in range(10) for entry in pair(number)], [entry for number in range(10, 20) for entry in pair(number)]
OTHERS = [(name, content if not name.endswith("cls") else content[1:]) for name, content in OTHERS]  # labels of one digit


@pytest.mark.parametrize("how", [Path.write_bytes, replaced], ids=["in place", "by rename"])
def test_the_same_size_and_time_with_other_bytes_is_indexed_anew(tmp_path: Path, how: Callable) -> None:
    path = write_tar(tmp_path / "0.tar", TEN)
    before = ShardSet.open([path])
    rewritten(path, OTHERS, how)
    after = ShardSet.open([path])
    assert after.digest != before.digest
    assert shard_index.load(path).key(0) == "00010"
    rewritten(path, TEN, how)
    assert ShardSet.open([path]).digest == before.digest


def test_a_copy_with_its_sidecar_is_believed_for_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "0.tar", TEN)
    before = ShardSet.open([path])
    path.chmod(0o600)
    shutil.copytree(tmp_path, tmp_path / "copy", copy_function=shutil.copy2)

    def never(*_: object) -> None:
        raise AssertionError("it was indexed again")

    monkeypatch.setattr(shard_index, "build", never)
    for place in (path, tmp_path / "copy" / "0.tar"):
        assert ShardSet.open([place]).digest == before.digest
        found = validation.read(place.with_name("0.tar.idx"), {})
        assert found
        assert found[0]["changed"] == str(place.stat().st_ctime_ns)


def test_a_reader_does_not_take_other_bytes_for_a_sample(tmp_path: Path) -> None:
    """The reader's own index is of the bytes before; only what a run can find out by reading tells."""
    path = write_tar(tmp_path / "0.tar", TEN)
    source = open_source(DataConfig(train=str(tmp_path), cache_mb=0))
    rewritten(path, OTHERS)
    batch = next(source.batches("train", 10))
    assert batch["valid"].sum() == 0
    assert source.failures == {CHANGED: 10}


@pytest.mark.parametrize("member", range(3))
def test_one_byte_costs_one_sample_whichever_member_has_it(tmp_path: Path, member: int) -> None:
    path = write_tar(tmp_path / "0.tar", TEN)
    source = open_source(DataConfig(train=str(tmp_path), cache_mb=0))
    offset = int(shard_index.load(path).spans[4, member, 0])
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    batch = next(source.batches("train", 10))
    assert batch["sample"][~batch["valid"]].tolist() == [4]


def test_a_shard_that_is_gone_is_counted_until_it_is_back(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", TEN)
    source = open_source(DataConfig(train=str(tmp_path), cache_mb=0))
    path.rename(tmp_path / "away")
    batches = source.batches("train", 10)
    assert next(batches)["valid"].sum() == 0
    (tmp_path / "away").rename(path)
    assert next(batches)["valid"].sum() == 10
    assert source.failures == {UNREADABLE: 10}


def test_a_sidecar_with_any_flipped_byte_is_made_again(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", pair(0))
    shard_index.facts(path)
    beside = tmp_path / "0.tar.idx"
    true, content = validation.read(beside, {}), beside.read_bytes()
    assert true
    flipped = tmp_path / "flipped"
    for at in range(len(content)):
        data = bytearray(content)
        data[at] ^= 1 << at % 8
        flipped.write_bytes(data)
        found = validation.read(flipped, {})
        assert found is None or (found[0] == true[0] and all(np.array_equal(found[1][name], true[1][name]) for name in true[1])), at
    for cut in range(0, len(content), 7):
        flipped.write_bytes(content[:cut])
        assert validation.read(flipped, {}) is None


def test_what_a_run_keeps_is_made_again_where_a_byte_is_flipped(tmp_path: Path) -> None:
    config = DataConfig(train=str(write_set(tmp_path / "set", 20)))
    open_and_cache(config, tmp_path)
    content = (tmp_path / "train.set").read_bytes()
    for at in range(0, len(content), 5):
        data = bytearray(content)
        data[at] ^= 1 << at % 8
        (tmp_path / "train.set").write_bytes(data)
        assert not dataset_cache.read_sets(tmp_path, config)
    assert open_source(config, tmp_path).num_samples("train") == 20


def test_a_shard_that_is_cut_while_it_is_indexed_is_a_sentence(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", TEN)
    with open_regular(path) as file:
        content = FileContent(file, f"shard {path}")
        os.truncate(path, 1000)
        with pytest.raises(FileChangedError, match=r"0.tar changed while it was indexed; start again"):
            content[0:4096]
        with pytest.raises(FileChangedError):
            content.sha256()


def test_slices_of_content_are_those_of_the_bytes(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(400_000)
    (tmp_path / "file").write_bytes(data)
    rng = random.Random(1)
    with open_regular(tmp_path / "file") as file:
        content = FileContent(file, "file")
        for _ in range(3000):
            start = rng.randrange(len(data) + 1000)
            stop = start + rng.choice([0, 1, 157, 512, 3000, 70_000])
            assert content[start:stop] == data[start:stop]


def test_joined_tars_are_read_and_verify_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    one, two = write_tar(tmp_path / "one.tar", TEN), write_tar(tmp_path / "two.tar", OTHERS)
    joined = tmp_path / "set" / "joined.tar"
    joined.parent.mkdir()
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    main(["verify", str(joined.parent)])
    out, err = capsys.readouterr()
    assert json.loads(out) == {"shards": 1, "samples": 20, "bad": {}, "members": {"seen": 60, "used": 60, "unused": {}}}
    end = 10 * 3 * 1024
    assert err.strip().startswith(f"shard joined.tar has 30 members behind the end of the archive at byte {end:,}, as of tars joined by cat")
    assert "30 members behind the end" in caplog.text
    assert not verify([one]).joined
    source = open_source(DataConfig(train=str(joined.parent), cache_mb=0))
    assert next(source.batches("train", 20))["valid"].sum() == 20


def test_the_digest_of_plain_shards_is_what_it_was_and_of_joined_ones_another(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", TEN)
    assert shard_index.facts(path)["digest"] == FileContent(open_regular(path), "").sha256()
    path.write_bytes(path.read_bytes() * 2)
    assert shard_index.facts(path)["digest"] != FileContent(open_regular(path), "").sha256()


READER = """
import sys
from genlib.config import DataConfig
from genlib.data.source import open_source
source = open_source(DataConfig(train=sys.argv[1], cache_mb=0, max_failed=1.0, readers=int(sys.argv[2])))
batches = source.batches("train", 20)
print("ready", flush=True)
good = 0
for line in sys.stdin:
    for _ in range(int(line)):
        batch = next(batches)
        right = (batch["image"][:, 0, 0, 0] * 255).round().long() == batch["label"]
        right &= batch["label"] == batch["sample"]
        assert (right | ~batch["valid"]).all(), batch
        good += int(batch["valid"].sum())
    print(good, dict(source.failures), flush=True)
"""


def harm(path: Path, data: bytes, rng: random.Random) -> None:
    """One of the ways in which a file may change."""
    with path.open("r+b") as file:
        way = rng.choice([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4, 5])  # more in place: what was renamed away is still read where it is open
        if way == 0:
            file.truncate(rng.randrange(len(data)))
        elif way == 1:
            file.seek(rng.randrange(len(data)))
            file.write(rng.randbytes(rng.randrange(1, 5000)))
        elif way == 2:
            file.truncate(0)
            file.truncate(len(data))  # of the same size, and all holes
        elif way == 3:
            replaced(path, rng.randbytes(len(data)))
        elif way == 4:
            replaced(path, data[: rng.randrange(len(data))])
        else:
            path.unlink()
    if path.exists():
        os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(("readers", "rounds"), [(0, 40), pytest.param(2, 400, marks=pytest.mark.slow)])
def test_a_running_reader_lives_whatever_becomes_of_its_shards(tmp_path: Path, readers: int, rounds: int) -> None:
    folder = write_set(tmp_path / "set", 60, per_shard=20)
    paths = sorted(folder.glob("*.tar"))
    whole = {path: path.read_bytes() for path in paths}
    command = [sys.executable, "-c", READER, str(folder), str(readers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        assert reader.stdin
        assert reader.stdout
        assert reader.stderr
        errors: list[str] = []
        drain = threading.Thread(target=lambda: errors.append(reader.stderr.read()))  # type: ignore[union-attr]
        drain.start()
        assert reader.stdout.readline() == "ready\n", errors
        rng = random.Random(0)
        for _ in range(rounds):
            reader.stdin.write("10\n")
            reader.stdin.flush()
            path = rng.choice(paths)
            time.sleep(rng.random() * 0.01)
            harm(path, whole[path], rng)
            assert reader.stdout.readline(), errors
            path.write_bytes(whole[path])  # where the reader has it open, if it is still there
        reader.stdin.close()
        told = reader.stdout.read()
        drain.join()
        assert reader.wait() == 0, (told, errors)


def test_shards_that_are_cut_under_reader_processes_end_none_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_set(tmp_path / "set", 60, per_shard=20)
    source = open_source(DataConfig(train=str(folder), cache_mb=0, max_failed=1.0, readers=1))
    batches = source.batches("train", 20)
    assert next(batches)["valid"].sum() == 20
    for path in folder.glob("*.tar"):
        os.truncate(path, 0)
    assert any(next(batches)["valid"].sum() == 0 for _ in range(40))  # some were read ahead
    batches.close()  # type: ignore[attr-defined]
    assert set(source.failures) == {CHANGED}
    assert "reader process" not in caplog.text


def test_places_say_when_a_file_changed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", pair(0))
    before = storage_path.stat(path)
    path.chmod(0o640)
    after = storage_path.stat(path)
    assert (after.size, after.tag) == (before.size, before.tag)
    assert after.changed != before.changed
