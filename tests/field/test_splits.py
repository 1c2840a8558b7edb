"""Splits by the names that the field uses, wherever they stand; what could be either is asked about.

mlfoundations/open_clip#148, rom1504/img2dataset#371: shards of a folder as downloaded. Horea94/Fruit-Images-Dataset#26: Train and Val with class
folders. webdataset/webdataset#5 and #331, huggingface/datasets#6931: compressed shards.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genlib.config import DataConfig
from genlib.data.importers.folder import open_folder
from genlib.data.importers.huggingface import parquet_files
from genlib.data.shards.discovery import all_shards, find_shards
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import open_source
from genlib.remote import remote_file
from tests.data.shards import pair, picture, write_tar
from tests.remote.servers import object_store


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with object_store(monkeypatch) as client:
        yield client


def shards(folder: Path, *names: str) -> str:
    for number, name in enumerate(names):
        write_tar(folder / name, pair(number))
    return str(folder)


SETS = {
    "as downloaded": (["cc3m-train-0000.tar", "cc3m-train-0001.tar"], ["cc3m-validation-0000.tar"], []),
    "any case": (["Train_0.tar"], ["Val_0.tar"], []),
    "no number": (["train0.tar"], ["dev.tar"], []),
    "test alone": (["a-training-0.tar"], ["a-testing-0.tar"], []),
    "all three": (["a-train-0.tar"], ["a-valid-0.tar"], ["a-test-0.tar"]),
    "folders": (["train/0.tar", "train/1.tar"], ["validation/0.tar"], []),
    "no name": (["00000.tar", "latest-retrained.tar"], [], []),
    "held out beside": (["00000.tar"], ["val-0.tar"], []),
}


@pytest.mark.parametrize("case", SETS)
def test_shards_of_a_folder(tmp_path: Path, case: str) -> None:
    train, held_out, left = SETS[case]
    where = shards(tmp_path / "test-runs" / "x", *train, *held_out, *left)  # what lies above the folder says nothing
    base = Path(where)
    assert find_shards(where) == [base / name for name in train]
    assert find_shards(where, "validation", only_split=True) == [base / name for name in held_out]
    assert set(all_shards(where)) == {base / name for name in (*train, *held_out, *left)}


def test_a_pattern_that_takes_in_both_kinds_is_split_and_one_that_names_them_is_not(tmp_path: Path) -> None:
    where = shards(tmp_path, "a-train-0.tar", "a-val-0.tar")
    assert [path.name for path in find_shards(f"{where}/a-*.tar")] == ["a-train-0.tar"]
    assert [path.name for path in find_shards(f"{where}/a-*.tar", "validation", only_split=True)] == ["a-val-0.tar"]
    assert [path.name for path in find_shards(f"{where}/a-val*.tar")] == ["a-val-0.tar"]
    source = open_source(DataConfig(train=where))
    assert (source.num_samples("train"), source.num_samples("validation")) == (1, 1)


def test_the_same_at_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["cc3m-train-0.tar", "cc3m-validation-0.tar", "x.json"]
    monkeypatch.setattr(remote_file, "_in_store", lambda folder, settings, below=False: names)
    for where in ("s3://bucket/val/set", "s3://bucket/val/set/*"):
        assert [file.name for file in find_shards(where)] == names[:1]
        assert [file.name for file in find_shards(where, "validation", only_split=True)] == names[1:2]


@pytest.mark.parametrize("case", SETS)
def test_folders_at_urls_are_read_as_local_ones(store: Any, case: str) -> None:
    train, held_out, left = SETS[case]
    bucket = f"sets-{list(SETS).index(case)}"
    store.create_bucket(Bucket=bucket)
    for name in (*train, *held_out, *left, "x.json", ".trash/train-9.tar", "../near/train-0.tar"):
        store.put_object(Bucket=bucket, Key=f"runs/set/{name}".replace("set/../", ""), Body=b"x")
    where = f"s3://{bucket}/runs/set"
    for form in (where, f"{where}/"):
        assert [file.url for file in find_shards(form)] == [f"{where}/{name}" for name in train]
        assert [file.url for file in find_shards(form, "validation", only_split=True)] == [f"{where}/{name}" for name in held_out]
        assert {file.url for file in all_shards(form)} == {f"{where}/{name}" for name in (*train, *held_out, *left)}


def test_folders_on_the_hub_are_read_as_local_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile, RepoFolder

    names = ["set/x.json", "set/train/0.tar", "set/val/0.tar", "set/.trash/1.tar"]

    def listed(api: HfApi, repository: str, path: str | None, *, recursive: bool, **how: Any) -> list[Any]:
        files = [RepoFile(path=name, size=1, oid="0") for name in names if recursive or name.count("/") == 1]
        return [RepoFolder(path="set/train", oid="0"), *files]

    monkeypatch.setattr(HfApi, "list_repo_tree", listed)
    assert [file.url for file in find_shards("hf://datasets/a/b/set")] == ["hf://datasets/a/b/set/train/0.tar"]
    assert [file.url for file in find_shards("hf://datasets/a/b/set", "validation")] == ["hf://datasets/a/b/set/val/0.tar"]


def test_compressed_shards_in_folders_at_urls(store: Any) -> None:
    store.create_bucket(Bucket="packed")
    store.put_object(Bucket="packed", Key="set/train/0.tar.gz", Body=b"x")
    for look in (find_shards, all_shards):
        with pytest.raises(ValueError, match=r"s3://packed/set holds 1 compressed shard, such as train/0.tar.gz; .*gunzip train/0.tar.gz"):
            look("s3://packed/set")


@pytest.mark.parametrize("look", [find_shards, all_shards])
def test_what_cannot_be_looked_up_at_a_url_is_refused_in_a_sentence(look: Any) -> None:
    with pytest.raises(ValueError, match=r"a web server does not say which files it has; name them, like .*00099}}?\.tar"):
        look("https://host/set")
    with pytest.raises(ValueError, match=r"'\*' may stand in the last part alone; name the folder"):
        look("s3://bucket/*/0.tar")
    signed = "https://host/set/0.tar?signature=a/b"
    assert [file.url for file in look(signed)] == [signed]


def test_held_out_shards_alone_are_asked_about(tmp_path: Path) -> None:
    where = shards(tmp_path, "test-0.tar")
    with pytest.raises(ValueError, match=r"holds held-out shards alone, such as test-0.tar; to train on them name them"):
        find_shards(where)
    assert len(find_shards(f"{where}/*.tar")) == 1


@pytest.mark.parametrize("name", ["0.tar.gz", "0.tgz"])
def test_compressed_shards_are_told_of_with_the_command(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / name).write_bytes(gzip.compress(write_tar(tmp_path / "x" / "0.tar", pair(0)).read_bytes()))
    (tmp_path / "x" / "0.tar").unlink()
    for look in (lambda: find_shards(str(tmp_path)), lambda: all_shards(str(tmp_path)), lambda: ShardSet.open(find_shards(str(tmp_path / name)))):
        with pytest.raises(ValueError, match=r"compressed.*gunzip"):
            look()
    hidden = tmp_path / "y.tar"
    hidden.write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(ValueError, match=r"y.tar is compressed by gzip.*gunzip"):
        ShardSet.open([hidden])
    hidden.unlink()
    write_tar(tmp_path / "1.tar", pair(1))
    assert [path.name for path in find_shards(str(tmp_path))] == ["1.tar"]
    assert "compressed" in caplog.text


def images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    return folder


def splits(folder: Path, **how) -> list[tuple[str, str, int | str | None]]:
    source = open_folder(folder, **how)
    return [(raw.name, raw.split, raw.label) for part in source.cut(100) for raw in source.read(part)]


def test_split_folders_of_images(tmp_path: Path) -> None:
    names = ("Train/ant/1.png", "Train/bee/2.png", "Val/bee/3.png", "TEST/ant/4.png")
    assert splits(images(tmp_path, *names)) == [
        ("TEST/ant/4.png", "test", 0), ("Train/ant/1.png", "train", 0), ("Train/bee/2.png", "train", 1), ("Val/bee/3.png", "validation", 1),
    ]  # fmt: skip
    assert open_folder(tmp_path).said["splits"] == "TEST is test, Train is train, Val is validation"


def test_a_folder_that_could_be_either_is_asked_about(tmp_path: Path) -> None:
    images(tmp_path, "train/1.png", "aeroplane/2.png", "bus/3.png")
    with pytest.raises(ValueError, match=r"are train splits or classes, with aeroplane beside them\? Give --splits folders .* or --splits none"):
        open_folder(tmp_path)
    assert [label for _, _, label in splits(tmp_path, splits="none")] == [0, 1, 2]
    assert {split for _, split, _ in splits(tmp_path, splits="folders")} == {"train"}


def test_parquet_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("cc-train-0.parquet", "cc-val-0.parquet"):
        (tmp_path / name).touch()
    assert parquet_files(tmp_path, "train") == [str(tmp_path / "cc-train-0.parquet")]
    assert parquet_files(tmp_path, "validation") == [str(tmp_path / "cc-val-0.parquet")]
