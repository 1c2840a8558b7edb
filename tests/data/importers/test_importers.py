"""Folders and tables: their order, captions, labels and splits, and what of them is left out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from genlib.data.importers.convert import ConversionInput, ConversionPlan, InputPart, RawSample, members, write_part
from genlib.data.importers.folder import open_folder
from genlib.data.importers.table import open_table
from tests.data.codecs.test_encode import encoded
from tests.data.importers.test_convert import stored, write
from tests.data.shards import picture


def samples_of(source: ConversionInput) -> list[RawSample]:
    return [raw for part in source.cut(3) for raw in source.read(part)]


def test_captions_beside_images(tmp_path: Path) -> None:
    write(tmp_path / "b.jpg", encoded("JPEG"))
    write(tmp_path / "b.txt", "a bird")
    write(tmp_path / "sub" / "a.PNG", picture())
    write(tmp_path / "sub" / "a.txt", "an ant")
    write(tmp_path / "c.png", picture())
    write(tmp_path / "notes.md", "not ours")
    write(tmp_path / ".hidden.png", picture())
    source = open_folder(tmp_path)
    raws = samples_of(source)
    assert [(raw.name, raw.problem) for raw in raws] == [("b.jpg", ""), ("c.png", "missing caption"), ("sub/a.PNG", "")]
    assert members(raws[0])["txt"] == b"a bird"
    assert members(raws[2])["txt"] == b"an ant"
    assert source.facts == {"name": tmp_path.name}
    assert source.said["files"] == "7 seen = 3 images + 2 captions + 1 other .md + 1 hidden"
    assert source.total == 3


def test_class_folders(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/x/2.png", "ant/3.png"):
        write(tmp_path / name, picture())
    source = open_folder(tmp_path)
    assert source.facts["class_names"] == ["ant", "cat", "dog"]
    assert [(raw.name, raw.label) for raw in samples_of(source)] == [("ant/3.png", 0), ("cat/1.png", 1), ("dog/x/2.png", 2)]
    assert "class_names" not in open_folder(tmp_path, "none").facts
    write(tmp_path / "loose.png", picture())
    assert {raw.label for raw in samples_of(open_folder(tmp_path))} == {None}
    with pytest.raises(ValueError, match=r"loose.png lies in no class folder"):
        open_folder(tmp_path, "folders")


def test_split_folders_share_their_classes(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/2.png", "val/dog/3.png"):
        write(tmp_path / name, picture())
    source = open_folder(tmp_path)
    assert source.facts["class_names"] == ["cat", "dog"]
    assert [(raw.split, raw.label) for raw in samples_of(source)] == [("train", 0), ("train", 1), ("validation", 1)]
    write(tmp_path / "test/dog/3.png", picture())
    assert [raw.split for raw in samples_of(open_folder(tmp_path))] == ["test", "train", "train", "validation"]


def test_a_changed_folder_is_another_input(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture())
    before = open_folder(tmp_path).identity
    assert open_folder(tmp_path).identity == before
    write(tmp_path / "b.png", picture())
    assert open_folder(tmp_path).identity != before


ROWS = [
    ("a.png", "an ant", "ant"),
    ("b.png", "", "bee"),
    ("", "x", "ant"),
    ("gone.png", "x", "bee"),
    ("http://h/c.png", "x", "bee"),
    ("a.png", "y", ""),
]
NAMES = ("path", "text", "kind")


def as_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([NAMES, *ROWS])


def as_json_lines(path: Path) -> None:
    path.write_text("\n".join(json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS) + "\n")


def as_parquet(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = zip(*ROWS, strict=True)
    parquet.write_table(pyarrow.table({name: list(column) for name, column in zip(NAMES, columns, strict=True)}), path)


@pytest.mark.parametrize(("name", "make"), [("t.csv", as_csv), ("t.jsonl", as_json_lines), ("t.parquet", as_parquet)])
def test_tables_of_every_form_say_the_same(tmp_path: Path, name: str, make) -> None:
    write(tmp_path / "a.png", picture(1))
    write(tmp_path / "b.png", picture(2))
    make(tmp_path / name)
    source = open_table(tmp_path / name, "path", "text", "kind")
    assert (source.total, source.facts["class_names"]) == (6, ["ant", "bee"])
    record = write_part(ConversionPlan(out=tmp_path / "out", read=source.read), InputPart(0, next(iter(source.cut(100)))))
    assert record.samples == {"train": 1}
    assert record.bad == {"a URL and no file": 1, "missing caption": 1, "missing image": 1, "missing label": 1, "no image path": 1}
    assert record.first["missing image"] == "gone.png"
    assert record.first["no image path"] == "row 3"
    assert stored(tmp_path / "out") == {"train-00000-000.tar": {"00000000000": {"png": picture(1), "txt": b"an ant", "cls": b"0"}}}


def test_numbers_stay_labels_and_bad_lines_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", '{"p": "a.png", "l": 7}\nnot json\n[1]\n\n{"p": "a.png", "l": 3}\n')
    source = open_table(tmp_path / "t.jsonl", "p", "", "l")
    assert source.total == 4
    assert "class_names" not in source.facts
    assert [(raw.label, raw.problem) for raw in samples_of(source)] == [(7, ""), (None, "bad JSON"), (None, "bad JSON"), (3, "")]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.csv", "path,text\n", "has no rows"),
        ("t.csv", "pth,text\na,b\n", "has no column 'path'. Did you mean 'pth'"),
        ("t.jsonl", '{"pth": 1}\n', "has no column 'path'"),
        ("t.parquet", "no", "is not a Parquet file"),
        ("t.txt", "x", "a table is .csv"),
        ("t.csv", "path\n" + "x" * (5 << 20) + "\n", "field larger than"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        open_table(write(tmp_path / name, content), "path")
