"""Captions and labels as people have them beside pictures, in tables and in data sets, against an independent reading of the same files.

bmaltais/kohya_ss#1370, huggingface/datasets#6442, huggingface/diffusers#2099, bghira/SimpleTuner#1092, rom1504/img2dataset#46, pytorch/vision#714,
modestyachts/ImageNetV2#10, pandas-dev/pandas#20717 and #28335, wbolster/jsonlines#53.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from genlib.config import DataConfig
from genlib.data.importers.convert import ConversionInput, ConversionPlan, InputPart, PartRecord, write_part
from genlib.data.importers.folder import open_folder
from genlib.data.importers.huggingface import HuggingfaceDataset, open_huggingface
from genlib.data.importers.table import open_table
from genlib.data.shards.discovery import all_shards
from genlib.data.shards.shard_set import ShardSet
from genlib.data.source import open_source
from genlib.ports.port_classes import WordsPort
from jobs.generate import read_prompts
from tests.data.importers.test_convert import stored
from tests.data.shards import picture, write_tar

BOM = b"\xef\xbb\xbf"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))


def put(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def written(source: ConversionInput, out: Path) -> tuple[PartRecord, list[dict[str, bytes]]]:
    """The record of a conversion in one part, and the members of its samples without pictures."""
    record = write_part(ConversionPlan(out=out, read=source.read), InputPart(0, next(iter(source.cut(1000)))))
    assert sum(record.samples.values()) + sum(record.bad.values()) == source.total
    samples = [sample for shard in stored(out).values() for sample in shard.values()]
    return record, [{ending: data for ending, data in sample.items() if ending != "png"} for sample in samples]


def texts(source: ConversionInput, out: Path) -> list[str]:
    return [sample["txt"].decode() for sample in written(source, out)[1]]


def test_captions_beside_pictures_under_the_names_that_are_used(tmp_path: Path) -> None:
    files = {
        "a.caption": b"one",
        "b.TXT": BOM + b"two",
        "c.txt": b"three",
        "c.caption": b"not this",
        "d.png.txt": b"four",
        "e.text": b"five",
        "x.npz": b"",
    }
    folder = put(tmp_path / "in", **{f"{name}.png": picture() for name in "abcdef"}, **files)
    source = open_folder(folder)
    record, samples = written(source, tmp_path / "out")
    assert [sample["txt"] for sample in samples] == [b"one", b"two", b"three", b"four", b"five"]
    assert record.bad == {"missing caption": 1}
    assert source.said["captions"] == "NAME.txt 3, NAME.caption 1, NAME.text 1"
    assert source.said["files"] == "13 seen = 6 images + 5 captions + 1 second captions + 1 other .npz"
    assert texts(open_folder(folder, caption_ending="caption"), tmp_path / "other") == ["one", "not this"]


def test_captions_as_windows_writes_them(tmp_path: Path) -> None:
    files = {
        "a": "é".encode("utf-16"),
        "b": "\ufeffé".encode("utf-16-be"),
        "c": "plain".encode("utf-16-le"),
        "d": "é".encode("latin-1"),
        "e": b"\xff\xfe\xd8",
    }
    folder = put(tmp_path / "in", **{f"{name}.png": picture() for name in files}, **{f"{name}.txt": data for name, data in files.items()})
    record, samples = written(open_folder(folder), tmp_path / "out")
    assert ([sample["txt"].decode() for sample in samples], record.bad) == (["é", "é"], {"non-UTF-8": 3})


def test_files_that_look_like_captions_and_are_none_are_told_of(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", **{"a.png": picture(), "a.wd14": b"one"})
    assert open_folder(folder).said["captions"] == "none (if .wd14 are captions, give --caption-ending .wd14)"
    assert texts(open_folder(folder, caption_ending=".wd14"), tmp_path / "out") == ["one"]


ROWS = [{"file_name": "a.png", "text": "an ant"}, {"file_name": "b.png", "text": "a bee, or two"}, {"file_name": "gone.png", "text": "x"}]


def metadata(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_bytes(BOM + "".join(json.dumps(row) + "\n" for row in rows).encode())
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
def test_metadata_of_an_image_folder(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path / "in", **{f"{stem}.png": picture() for stem in "abc"}, **{"sub/d.png": picture()})
    metadata(folder / name, ROWS)
    metadata(folder / "sub" / name, [{"image_file_name": "d.png", "text": "below"}])
    source = open_folder(folder)
    record, samples = written(source, tmp_path / "out")
    assert [sample["txt"].decode() for sample in samples] == [*(row["text"] for row in ROWS[:2]), "below"]
    assert record.bad == {"missing image": 1, "not in the metadata file": 1}
    assert source.said["captions"] == f"column 'text' of {name} and 1 more"


def test_metadata_with_several_texts_asks_which_one_is_the_caption(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", **{"a.png": picture()})
    metadata(folder / "metadata.jsonl", [{"file_name": "a.png", "long": "one", "short": "two"}])
    with pytest.raises(ValueError, match=r"which column holds the captions\? Give --caption-column, one of long, short"):
        open_folder(folder)
    assert texts(open_folder(folder, caption_column="short"), tmp_path / "out") == ["two"]


LISTS: list[Any] = [["a red one", "a picture\nin red"], ["one only"], [], None, "plain", ["", None]]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "huggingface"])
def test_lists_of_captions_in_tables(tmp_path: Path, form: str) -> None:
    values = LISTS if form == "jsonl" else [value for value in LISTS if not isinstance(value, str)]
    put(tmp_path, **{"a.png": picture()})
    rows = [{"image": "a.png" if form != "huggingface" else picture(), "text": value} for value in values]
    metadata(tmp_path / f"t.{'jsonl' if form == 'jsonl' else 'parquet'}", rows)
    if form == "huggingface":
        pytest.importorskip("datasets")
        source = open_huggingface(HuggingfaceDataset(path=str(tmp_path / "t.parquet")), image="image", caption="text")
    else:
        source = open_table(tmp_path / f"t.{form}", "image", "text")
    record, samples = written(source, tmp_path / "out")
    expected = [(b"a red one", b"a red one\na picture in red"), (b"one only", b"one only"), *([(b"plain", b"plain")] if form == "jsonl" else [])]
    assert [(sample["txt"], sample["captions.txt"]) for sample in samples] == expected
    assert record.bad == {"missing caption": 3}
    read = open_source(DataConfig(train=str(tmp_path / "out")))
    assert read.spec.several_captions
    assert "lists" in source.said["captions"]


def test_what_is_no_caption_is_missing_or_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path, **{"a.png": picture()})
    values: list[Any] = ["good", math.nan, None, 5, {"a": 1}, ["x", 5], " "]
    metadata(tmp_path / "t.jsonl", [{"image": "a.png", "text": value} for value in values])
    record, _ = written(open_table(tmp_path / "t.jsonl", "image", "text"), tmp_path / "out")
    assert record.samples == {"train": 1}
    assert record.bad == {"missing caption": 3, "caption of type int": 1, "caption of type dict": 1, "caption of type int in a list": 1}
    metadata(tmp_path / "n.parquet", [{"image": "a.png", "text": 5}])
    with pytest.raises(ValueError, match=r"column 'text' holds int64; captions are texts or lists of texts"):
        open_table(tmp_path / "n.parquet", "image", "text").cut(1)
    pytest.importorskip("datasets")
    for number, (value, kind) in enumerate(
        ((5, r"Value\('int64'\)"), ({"a": "x"}, r"\{'a': "), ([{"a": "x"}], r"List\(\{'a': "), ([5], r"List\(Value\('int64'"))
    ):
        metadata(tmp_path / f"h{number}.parquet", [{"image": picture(), "text": value}])
        with pytest.raises(ValueError, match=rf"column 'text' holds {kind}.*; captions are texts or lists of texts"):
            open_huggingface(HuggingfaceDataset(path=str(tmp_path / f"h{number}.parquet")), image="image", caption="text")
    (tmp_path / "t.csv").write_text("image,text\na.png,nan\na.png,NaN\na.png,a nan\n")
    assert texts(open_table(tmp_path / "t.csv", "image", "text"), tmp_path / "csv") == ["a nan"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "huggingface"])
def test_labels_of_tables_stay_and_minus_one_is_missing(tmp_path: Path, form: str) -> None:
    put(tmp_path, **{"a.png": picture()})
    labels: list[Any] = [-1.0, 0.0, 1.0, math.nan, 10.0]  # as pandas has whole numbers with a gap
    rows = [{"image": "a.png" if form != "huggingface" else picture(), "label": label} for label in labels]
    metadata(tmp_path / f"t.{'parquet' if form == 'huggingface' else form}", rows)
    if form == "huggingface":
        pytest.importorskip("datasets")
        source = open_huggingface(HuggingfaceDataset(path=str(tmp_path / "t.parquet")), image="image", label="label")
    else:
        source = open_table(tmp_path / f"t.{form}", "image", "", "label")
    record, samples = written(source, tmp_path / "out")
    assert [sample["cls"] for sample in samples] == [b"0", b"1", b"10"]
    assert record.bad == {"missing label": 2}
    assert source.said["labels"] == "3 classes from column 'label', numbers as they are: 0 to 10"


def test_members_have_the_same_rule(tmp_path: Path) -> None:
    entries = [entry for n, label in enumerate((b"10", BOM + b"2", b"-1", b"nan")) for entry in ((f"{n}.png", picture()), (f"{n}.cls", label))]
    found = ShardSet.open([write_tar(tmp_path / "0.tar", entries)])
    assert (len(found), found.bad, found.highest_label) == (2, {"missing label": 2}, 10)


def test_class_folders_with_numbers_keep_them(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", **{f"{number}/a.png": picture() for number in range(12)})
    source = open_folder(folder)
    assert {sample.name.partition("/")[0]: sample.label for part in source.cut(100) for sample in source.read(part)} == {str(n): n for n in range(12)}
    assert "class_names" not in source.facts
    assert source.said["labels"] == "12 classes from folders, numbers as they are: 0 to 11"
    put(folder, **{"ant/a.png": picture()})
    mixed = open_folder(folder)
    assert mixed.facts["class_names"] == sorted([*map(str, range(12)), "ant"])
    put(tmp_path / "twice", **{"1/a.png": picture(), "01/a.png": picture()})
    with pytest.raises(ValueError, match="are the same number"):
        open_folder(tmp_path / "twice")


def test_a_prompt_file_as_windows_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(BOM + "a cat\r\n\r\na dog\u2028at sea\r\n".encode())
    assert [line["prompt"] for line in read_prompts(path, "prompt")] == ["a cat", "a dog\u2028at sea"]
    lines = tmp_path / "prompts.jsonl"
    lines.write_bytes(BOM + b'{"prompt": "a cat"}\n')
    assert read_prompts(lines, "prompt") == [{"prompt": "a cat"}]
    for wrong in ("NaN", "null", '["a"]', '" "', "5"):
        lines.write_text(f'{{"prompt": {wrong}}}\n')
        with pytest.raises(ValueError, match=r"line 1: the prompt is .*; it must be a text"):
            read_prompts(lines, "prompt")


def test_a_request_loses_its_byte_order_mark() -> None:
    assert WordsPort(kind="texts", axes=("batch",)).taken(["\ufeffa cat", "a dog"]) == ["a cat", "a dog"]


def test_all_shards_are_there(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"train/a/1.png": picture(), "test/a/2.png": picture(), "train/b/3.png": picture()})
    written(open_folder(tmp_path / "in"), tmp_path / "out")
    assert {path.name.partition("-")[0] for path in all_shards(str(tmp_path / "out"))} == {"train", "test"}
    assert open_source(DataConfig(train=str(tmp_path / "out"))).num_samples("validation") == 1
