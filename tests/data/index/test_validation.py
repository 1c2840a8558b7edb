"""Sidecars that lie are as good as none: the index is made again and every sample is read right; nothing is opened that could hang."""

import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from genlib.config import DataConfig
from genlib.data.index import shard_index, sidecar_files, storage_path, validation
from genlib.data.source import open_source
from tests.data.shards import pair, picture, write_tar
from tests.remote.servers import FileServer

Told = tuple[dict[str, Any], dict[str, np.ndarray]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Four good samples, one without its caption, one that is bad."""
    entries = [*(entry for number in range(4) for entry in pair(number)), ("00004.png", picture(4)), ("00005.png", b"no picture")]
    path = write_tar(tmp_path / "set" / "0.tar", entries)
    shard_index.facts(path)
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with FileServer() as server:
        yield server


def told(place: Path) -> Told:
    found = validation.read(place, {})
    assert found
    return found


def tell(place: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes a sidecar with a true checksum."""
    place.write_bytes(validation.packed(meta, arrays))


def read_right(where: str, **more: Any) -> None:
    batch = next(open_source(DataConfig(train=where, cache_mb=0, **more)).batches("train", 4))
    assert sorted(batch["label"].tolist()) == [0, 1, 2, 3]
    assert (batch["image"][:, 0, 0, 0] * 255).round().long().tolist() == batch["label"].tolist()


def put(name: str, at: Any, value: float) -> Callable[[Told], None]:
    """A lie in one array."""
    return lambda found: found[1][name].__setitem__(at, value)


def say(**facts: Any) -> Callable[[Told], None]:
    """A lie in the words."""
    return lambda found: found[0].update(facts)


def shape(name: str, values: np.ndarray) -> Callable[[Told], None]:
    """An array of another shape or type."""
    return lambda found: found[1].update({name: values})


def columns_swapped(found: Told) -> None:
    found[0]["fields"].reverse()


def a_row_less(found: Told) -> None:
    for name in ("spans", "masks", "pixels", "numbers"):
        found[1][name] = found[1][name][1:]


def one_sample_twice_as_large_as_the_shard(found: Told) -> None:
    found[1]["spans"][:4, 0] = 512, found[0]["size"] - 512


LIES: dict[str, Callable[[Told], None]] = {
    "behind the end": put("spans", (0, 0, 0), 1 << 40),
    "over the end by one": lambda found: found[1]["spans"].__setitem__((0, 0, 0), found[0]["size"] - found[1]["spans"][0, 0, 1] + 1),
    "before the start": put("spans", (0, 0, 0), -5),
    "in the first header": put("spans", (0, 0, 0), 0),
    "negative size": put("spans", (0, 0, 1), -1),
    "a sum that wraps": put("spans", (0, 0, 1), np.iinfo(np.int64).max),
    "smallest size there is": put("spans", (0, 0, 1), np.iinfo(np.int64).min),
    "a label of a kilobyte": put("spans", (0, 2, 1), 1024),
    "all samples share all bytes": one_sample_twice_as_large_as_the_shard,
    "absent and yet present": put("spans", (0, 1), -1),
    "present and yet absent": put("spans", (4, 1), 600),
    "a bit too many": put("masks", 4, 7),
    "a bit too few": put("masks", 0, 3),
    "a bit of no field": put("masks", 0, 15),
    "no bits": put("masks", 4, 0),
    "other counts of masks": say(masks=[[1, 2], [7, 3]]),
    "masks of more rows": say(masks=[[1, 1], [7, 1 << 40]]),
    "masks that are words": say(masks=[["1", "1"]]),
    "no pixels": put("pixels", (0, 0), 0),
    "negative pixels": put("pixels", (0,), -8),
    "a picture of 2**62 pixels": put("pixels", (0,), 2**31 - 1),
    "another size": say(sizes=[[9, 9]]),
    "huge sizes": say(sizes=[[1 << 40, 1 << 40]]),
    "a label above the highest": say(highest_label=2),
    "more classes than memory": say(highest_label=1 << 60),
    "a label of half": put("numbers", (0, 0), 0.5),
    "a label that is none": put("numbers", (0, 0), np.nan),
    "no labels at all": say(numbers=["x"]),
    "a number by the name of code": say(numbers=["__import__('os')"]),
    "names end behind the names": put("key_ends", -1, 1 << 40),
    "names go backwards": put("key_ends", 0, 1 << 40),
    "a name before the start": put("key_ends", 0, -1),
    "a row less": a_row_less,
    "other types": shape("masks", np.zeros(5, np.int64)),
    "a flat list of spans": shape("spans", np.zeros(30, np.int64)),
    "a name for a terminal": say(first={"undecodable header": "\x1b]0;hi\x07"}),
    "a reason for a terminal": say(bad={"\x1b[2J": 1}, first={}),
    "a reason without a count": say(bad={}),
    "negative counts": say(bad={"undecodable header": -1}),
    "a field of no kind": say(fields=[["image", "image"], ["text", "pickle"], ["label", "label"]]),
    "a field of two names": say(fields=[["image", "image"], ["../x", "text"], ["label", "label"]]),
    "pictures that are text": say(fields=[["image", "text"], ["text", "text"], ["label", "label"]]),
    "one field twice": say(fields=[["image", "image"], ["image", "image"], ["label", "label"]]),
    "columns swapped": columns_swapped,
    "a digest that is none": say(digest="z" * 64),
    "channels of no image": say(channels={"1": 500}),
    "seven channels": say(channels={"7": 5}),
    "the version before": say(version=shard_index.INDEX_VERSION - 1),
    "a checksum of no member": put("sums", (4, 1), 7),
    "checksums of a row less": lambda found: found[1].update(sums=found[1]["sums"][1:]),
    "members behind an end that is negative": say(joined=[-1, 0]),
    "a version that is nearly right": say(version=float(shard_index.INDEX_VERSION)),
    "more facts": say(extra=1),
    "a list": lambda found: found[0].clear(),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_sidecar_that_lies_is_made_again(shard: Path, lie: str) -> None:
    beside = shard.with_name("0.tar.idx")
    true, (meta, arrays) = told(beside), told(beside)
    LIES[lie]((meta, arrays))
    tell(beside, meta, arrays)
    assert validation.read(beside, {"version": shard_index.INDEX_VERSION}) is None
    read_right(str(shard.parent))
    again = told(beside)
    assert again[0] == true[0]
    assert all(np.array_equal(again[1][name], true[1][name], equal_nan=name == "numbers") for name in true[1])


@pytest.mark.parametrize("lie", ["behind the end", "a bit too few", "more classes than memory"])
def test_a_lie_beside_a_read_only_shard_gives_way_to_the_cache_folder(shard: Path, lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, cached = sidecar_files.sidecars(shard)
    meta, arrays = told(beside)
    LIES[lie]((meta, arrays))
    tell(beside, meta, arrays)
    lying = beside.read_bytes()

    def refused(path: Path, content: bytes, write=sidecar_files.write_atomically) -> None:
        if path == beside:
            raise PermissionError(13, "Permission denied")
        write(path, content)

    monkeypatch.setattr(sidecar_files, "write_atomically", refused)  # root may write anywhere
    read_right(str(shard.parent))
    assert beside.read_bytes() == lying
    assert cached.is_file()


@pytest.mark.parametrize("lie", ["behind the end", "all samples share all bytes", "masks of more rows", "a name for a terminal"])
def test_a_lie_at_a_url_is_made_again_in_the_cache_folder(shard: Path, server: FileServer, lie: str) -> None:
    meta, arrays = told(shard.with_name("0.tar.idx"))
    server.files["/0.tar"] = shard.read_bytes()
    place = f"{server.url}/0.tar"
    read_right(place)
    (cached,) = (Path(os.environ["GENLIB_CACHE"]) / "index").glob("*.idx")
    meta, arrays = told(cached)
    LIES[lie]((meta, arrays))
    tell(cached, meta, arrays)
    server.files["/0.tar.idx"] = cached.read_bytes()
    cached.unlink()
    read_right(place)
    assert validation.read(cached, {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        (1 << 40).to_bytes(8, "little") + b"{",
        save({"spans": np.zeros(1)}),
        save({"spans": np.zeros(1)}, {"genlib": "{}"}),
        save({"spans": np.zeros(1)}, {"genlib": "[" * 100_000}),
        save({"spans": np.zeros(1)}, {"genlib": "1" * 10_000}),
        save({"spans": np.zeros(1)}, {"genlib": '{"version": NaN}'}),
        save({"spans": np.zeros(1)}, {"genlib": "\ud7ff"}),
        save({"spans": np.zeros(1)}, {"genlib": '"' + "x" * (9 << 20) + '"'}),
    ],
    ids=range(11),
)
def test_what_is_no_sidecar_is_made_again(shard: Path, content: bytes) -> None:
    shard.with_name("0.tar.idx").write_bytes(content)
    read_right(str(shard.parent))


def test_a_sidecar_without_one_array_is_made_again(shard: Path) -> None:
    beside = shard.with_name("0.tar.idx")
    meta, arrays = told(beside)
    for name in arrays:
        tell(beside, meta, {other: values for other, values in arrays.items() if other != name})
        assert validation.read(beside, {}) is None
    read_right(str(shard.parent))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "elsewhere"])
def test_a_sidecar_that_is_no_file_is_not_opened(shard: Path, tmp_path: Path, kind: str) -> None:
    beside, other = shard.with_name("0.tar.idx"), tmp_path / "other"
    beside.unlink()
    other.write_text("mine")
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(beside),
        "folder": beside.mkdir,
        "device": lambda: beside.symlink_to("/dev/zero"),
        "loop": lambda: beside.symlink_to(beside),
        "elsewhere": lambda: beside.symlink_to(other),
    }
    make[kind]()
    read_right(str(shard.parent))
    assert other.read_text() == "mine"


def test_a_sidecar_larger_than_any_takes_no_memory(shard: Path) -> None:
    """A file with holes that says it holds 900 GB of names."""
    size = 900 << 30
    table = {"key_bytes": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}, "__metadata__": {"genlib": "{}"}}
    head = json.dumps(table).encode()
    beside = shard.with_name("0.tar.idx")
    beside.write_bytes(len(head).to_bytes(8, "little") + head)
    os.truncate(beside, 8 + len(head) + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_right(str(shard.parent))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # kilobytes


def test_a_label_that_the_index_did_not_tell_of_is_no_label(tmp_path: Path) -> None:
    """The words, the numbers and the place agree, and the bytes there are others: what a model would index stays in its range."""
    path = write_tar(tmp_path / "0.tar", [entry for number in (0, 1, 2, 900) for entry in pair(number)])
    shard_index.facts(path)
    beside = tmp_path / "0.tar.idx"
    meta, arrays = told(beside)
    arrays["numbers"][3, 0], meta["highest_label"] = 2, 2
    tell(beside, meta, arrays)
    source = open_source(DataConfig(train=str(tmp_path)))
    batch = next(source.batches("train", 4))
    assert batch["label"].max() == 2
    assert source.failures == {"bad label": 1}


def test_where_neither_place_takes_the_index_a_sentence_says_so(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "file"))  # as good as read-only, also for root
    shard.with_name("0.tar.idx").unlink()
    read_right(str(shard.parent))  # a data folder that can be written is enough
    shard.with_name("0.tar.idx").unlink()
    shard.with_name("0.tar.idx").mkdir()
    with pytest.raises(ValueError, match=r"0.tar cannot be kept in .*/file \(.*\); name a folder .* in GENLIB_CACHE") as caught:
        open_source(DataConfig(train=str(shard.parent)))
    assert "\n" not in str(caught.value)


def test_a_shard_that_grows_while_it_is_indexed_is_told_of(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard.with_name("0.tar.idx").unlink()
    content = storage_path.open_content

    def grown(place: Path) -> Any:
        write_tar(place, [entry for number in range(99) for entry in pair(number)])
        return content(place)

    monkeypatch.setattr(storage_path, "open_content", grown)
    with pytest.raises(ValueError, match=r"0.tar changed while it was indexed; start again"):
        shard_index.facts(shard)
    monkeypatch.setattr(storage_path, "open_content", content)
    assert shard_index.facts(shard)["masks"] == [[7, 99]]
