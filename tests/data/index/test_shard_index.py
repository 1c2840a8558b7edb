"""Good samples get numbers; every bad one is counted once, by its reason; sidecars follow their shards."""

import io
import json
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlib.data.index import shard_index, sidecar_files
from genlib.data.shards.discovery import all_shards, find_shards, split_paths
from genlib.data.shards.shard_set import ShardSet
from tests.data.shards import Entry, pair, picture, tar_bytes, write_set, write_tar


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""
    data = bytearray(picture())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def animated(kind: str) -> bytes:
    buffer = io.BytesIO()
    first, second = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")
    first.save(buffer, kind, save_all=True, append_images=[second])
    return buffer.getvalue()


def good(*without: str) -> list[Entry]:
    """Sample number 1 without some of its members."""
    return [entry for entry in pair(1) if not entry[0].endswith(without or "-")]


BAD: dict[str, tuple[str, list[Entry]]] = {
    "no image": ("missing member", good("png")),
    "no caption": ("missing member", good("txt")),
    "nothing known": ("missing member", [("00001.txt", b"only text")]),
    "empty caption": ("missing caption", [*good("txt"), ("00001.txt", b" \n")]),
    "latin-1 caption": ("non-UTF-8", [*good("txt"), ("00001.txt", "caf\xe9".encode("latin-1"))]),
    "bad json": ("bad JSON", [*good(), ("00001.json", b"{")]),
    "deep json": ("bad JSON", [*good(), ("00001.json", b"[" * 100_000)]),
    "list json": ("bad JSON", [*good(), ("00001.json", b"[1]")]),
    "bad label": ("bad label", [*good("cls"), ("00001.cls", b"minus")]),
    "text as image": ("undecodable header", [*good("png"), ("00001.png", b"hello")]),
    "empty image": ("undecodable header", [*good("png"), ("00001.png", b"")]),
    "bomb": ("over the pixel limit", [*good("png"), ("00001.png", bomb())]),
    "long caption": ("over the byte limit", [*good("txt"), ("00001.txt", b"x" * (2 << 20))]),
    "animated png": ("several frames", [*good("png"), ("00001.png", animated("PNG"))]),
    "animated webp": ("several frames", [*good("png"), ("00001.webp", animated("WEBP"))]),
    "twice": ("duplicate", [*good(), *good()]),
}


@pytest.mark.parametrize("case", BAD)
def test_each_bad_sample_is_counted_by_its_reason(tmp_path: Path, case: str) -> None:
    reason, entries = BAD[case]
    samples = ShardSet.open([write_tar(tmp_path / "0.tar", [*pair(0), *entries, *pair(2)])])
    assert samples.bad == {reason: 1}
    assert samples.first_bad == {reason: "0.tar:00001"}
    assert len(samples) == (3 if reason == "duplicate" else 2)


def test_members_need_not_be_adjacent(tmp_path: Path) -> None:
    entries = [entry for trio in zip(pair(0), pair(1), pair(2), strict=True) for entry in trio]
    samples = ShardSet.open([write_tar(tmp_path / "0.tar", entries)])
    assert len(samples) == 3
    assert not samples.bad


def test_a_broken_header_costs_one_sample_and_is_counted_once(tmp_path: Path) -> None:
    for member in range(9):
        data = bytearray(tar_bytes([*pair(0), *pair(1), *pair(2)]))
        data[1024 * member + 5] ^= 1
        path = tmp_path / f"{member}.tar"
        path.write_bytes(data)
        samples = ShardSet.open([path])
        assert (len(samples), samples.bad) == (2, {"broken header": 1})


def test_a_cut_shard_keeps_what_is_whole(tmp_path: Path) -> None:
    data = tar_bytes([*pair(0), *pair(1), *pair(2)])
    for members in range(1, 9):
        path = tmp_path / f"{members}.tar"
        path.write_bytes(data[: 1024 * members + 600])
        samples = ShardSet.open([path])
        assert samples.bad["truncated"] == sum(samples.bad.values()) == 1


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_members_outside_the_allow_list_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    harm = pickle.dumps(Harm())
    names = ("pkl", "pickle", "pyd", "pth", "pt", "py", "tar", "gz", "image.pkl", "../../png")
    entries = [*pair(0), *((f"00000.{name}", harm) for name in names), (".hidden.png", harm), ("/etc/evil.sh", harm)]
    samples = ShardSet.open([write_tar(tmp_path / "0.tar", entries)])
    assert samples.fields == ["image", "label", "text"]
    assert len(samples) == 1
    assert not (tmp_path / "harmed").exists()


def test_a_sidecar_is_used_until_its_shard_changes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", pair(0))
    first = shard_index.facts(path)
    sidecar = tmp_path / "0.tar.idx"
    written = sidecar.stat().st_mtime_ns
    assert shard_index.facts(path) == first
    assert sidecar.stat().st_mtime_ns == written
    write_tar(path, [*pair(0), *pair(1)])
    assert shard_index.facts(path)["digest"] != first["digest"]
    assert len(ShardSet.open([path])) == 2


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100])
def test_a_damaged_sidecar_is_made_again(tmp_path: Path, content: bytes) -> None:
    path = write_tar(tmp_path / "0.tar", pair(0))
    before = shard_index.facts(path)
    (tmp_path / "0.tar.idx").write_bytes(content)
    assert shard_index.facts(path) == before


def test_the_cache_folder_takes_sidecars_of_read_only_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "0.tar", pair(0))
    beside, cached = sidecar_files.sidecars(path)
    beside.mkdir()  # as good as read-only, also for root
    assert len(ShardSet.open([path])) == 1
    assert cached.is_file()
    assert shard_index.load(path).key(0) == "00000"


def test_the_digest_is_the_content(tmp_path: Path) -> None:
    one, copy = write_set(tmp_path / "one", 25), write_set(tmp_path / "copy", 25)
    assert ShardSet.open(all_shards(str(one))).digest == ShardSet.open(all_shards(str(copy))).digest
    data = bytearray((copy / "00001.tar").read_bytes())
    data[data.index(b"picture 15")] ^= 1
    (copy / "00001.tar").write_bytes(data)
    assert ShardSet.open(all_shards(str(one))).digest != ShardSet.open(all_shards(str(copy))).digest


def test_numbers_run_over_all_shards(tmp_path: Path) -> None:
    samples = ShardSet.open(find_shards(str(write_set(tmp_path, 25))))
    shards, places = samples.locate(np.array([0, 9, 10, 24]))
    assert shards.tolist() == [0, 0, 1, 2]
    assert places.tolist() == [0, 9, 0, 4]
    index_of_last, rows = samples.rows(2)
    assert index_of_last.key(int(rows[4])) == "00024"


def test_shards_are_found_by_folder_pattern_and_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain, split = write_set(tmp_path / "plain", 30), tmp_path / "split"
    write_set(split, 20, prefix="train-")
    write_set(split, 10, prefix="validation-")
    names = lambda where, name="train", **how: [path.name for part in split_paths(where) for path in find_shards(part, name, **how)]  # noqa: E731
    assert names(str(plain)) == ["00000.tar", "00001.tar", "00002.tar"]
    assert names(f"{plain}/{{00000..00001}}.tar::{plain}/00002.tar") == ["00000.tar", "00001.tar", "00002.tar"]
    assert names(f"{plain}/*1.tar") == ["00001.tar"]
    assert names(str(split)) == ["train-00000.tar", "train-00001.tar"]
    assert names(str(split), "validation") == ["validation-00000.tar"]
    assert names(str(plain), "validation") == ["00000.tar", "00001.tar", "00002.tar"]
    assert names(str(plain), "validation", only_split=True) == []
    assert names(f"{plain}/{{00001..00007}}.tar") == ["00001.tar", "00002.tar"]
    assert "5 of the 7 shards" in caplog.text


def test_what_img2dataset_writes_is_read_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Gaps in the numbers of shards and samples, statistics and tables beside them, rows whose download failed, several places."""
    for shard, numbers in {"00000": range(8), "00003": range(20, 25)}.items():
        entries = []
        for number in numbers:
            key = f"{shard}{number:05d}"
            facts = {"caption": f"a {number}", "key": key, "status": "success", "error_message": None, "width": 8, "height": 8, "exif": "{}"}
            text, more = f"a {number}".encode(), json.dumps({**facts, "similarity": number / 10, "sha256": "0"}).encode()
            entries += [(f"{key}.jpg", picture(number, kind="jpeg")), (f"{key}.txt", text), (f"{key}.json", more)]
        write_tar(tmp_path / f"{shard}.tar", entries)
        (tmp_path / f"{shard}_stats.json").write_text('{"count": 8, "successes": 5}')
        (tmp_path / f"{shard}.parquet").write_bytes(b"PAR1")
    assert len(ShardSet.open(find_shards(str(tmp_path)))) == 13
    listed = ShardSet.open(find_shards(f"{tmp_path}/{{00000..00004}}.tar"), ["similarity>=2.2"])
    assert len(listed) == 3
    assert "3 of the 5 shards" in caplog.text
    assert not listed.bad
