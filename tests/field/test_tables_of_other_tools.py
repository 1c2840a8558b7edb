"""Tables and metadata as spreadsheets, Windows and other trainers write them.

mlfoundations/open_clip#789 and #1083: tabs or semicolons in a .csv. microsoft/CNTK#1321, CellProfiler/CellProfiler#1385: backslashes between
folders. rom1504/img2dataset#244, victorchall/EveryDream2trainer#267: a picture in several rows, one caption each; JSON lists. NVlabs/stylegan3#149:
labels that are no class. modelscope/DiffSynth-Studio#1190: other names of columns. Flickr30k's results.csv: bars between columns.
"""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from genlib.data.importers.folder import open_folder
from genlib.data.importers.table import open_table
from jobs.prepare_data import main
from tests.data.shards import picture
from tests.field.test_captions_and_labels import metadata, put, texts, written

ROWS = [{"filepath": "images/a.png", "title": "a cat, a dog; both"}, {"filepath": "images/b.png", "title": "two\nlines"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return put(tmp_path / "in", **{"images/a.png": picture(), "images/b.png": picture()})


def table(path: Path, delimiter: str, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_stands_between_columns_is_told_from_the_header(folder: Path, tmp_path: Path, delimiter: str) -> None:
    source = open_table(table(folder / "t.csv", delimiter, ROWS), "filepath", "title")
    assert texts(source, tmp_path / "out") == [row["title"] for row in ROWS]


def test_a_json_list_is_a_table(folder: Path, tmp_path: Path) -> None:
    path = folder / "t.json"
    path.write_text(json.dumps([*ROWS, "no object", {"filepath": "images/a.png", "title": None}]))
    record, samples = written(open_table(path, "filepath", "title"), tmp_path / "out")
    assert [sample["txt"].decode() for sample in samples] == [row["title"] for row in ROWS]
    assert record.bad == {"bad JSON": 1, "missing caption": 1}


@pytest.mark.parametrize(
    ("content", "said"), [('{"images": [], "annotations": []}', "is JSON with images, annotations, and no list"), ("[{", "is no JSON")]
)
def test_other_json_is_refused_in_a_sentence(folder: Path, content: str, said: str) -> None:
    (folder / "t.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        open_table(folder / "t.json", "filepath")


def test_a_look_knows_a_json_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "t.json").write_text(json.dumps(ROWS))
    main(["look", str(folder / "t.json")])
    assert "--image-column filepath --caption-column title" in capsys.readouterr().out


def test_backslashes_between_folders(folder: Path, tmp_path: Path) -> None:
    rows = [{**row, "filepath": row["filepath"].replace("/", "\\")} for row in ROWS]
    assert len(texts(open_table(table(folder / "t.csv", ",", rows), "filepath", "title"), tmp_path / "table")) == 2
    (folder / "t.csv").unlink()
    metadata(folder / "metadata.jsonl", [{"file_name": row["filepath"], "text": row["title"]} for row in rows])
    assert texts(open_folder(folder), tmp_path / "folder") == [row["title"] for row in ROWS]


def test_a_backslash_in_a_name_is_a_backslash(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", **{"a\\b.png": picture(), "a/b.png": picture()})
    source = open_table(table(folder / "t.csv", ",", [{"path": "a\\b.png"}, {"path": "a/b.png"}]), "path")
    assert written(source, tmp_path / "out")[0].bad == {}


def test_absolute_paths_in_metadata(folder: Path, tmp_path: Path) -> None:
    metadata(folder / "metadata.csv", [{"file_name": str((folder / row["filepath"]).absolute()), "text": row["title"]} for row in ROWS])
    assert texts(open_folder(folder), tmp_path / "out") == [row["title"] for row in ROWS]


def test_rows_of_one_picture_are_its_captions(folder: Path, tmp_path: Path) -> None:
    rows = [("images/a.png", "one"), ("images/b.png", "alone"), ("./images/a.png", "two"), ("images/a.png", "one"), ("images/a.png", "three")]
    metadata(folder / "metadata.jsonl", [{"file_name": path, "text": text} for path, text in rows])
    record, samples = written(open_folder(folder), tmp_path / "out")
    assert [sample["captions.txt"] for sample in samples] == [b"one\ntwo\nthree", b"alone"]
    assert record.bad == {}


def test_rows_of_one_picture_that_disagree_are_counted(folder: Path, tmp_path: Path) -> None:
    rows = [("images/a.png", 1), ("images/b.png", None), ("images/a.png", 2), ("images/b.png", 0)]
    metadata(folder / "metadata.jsonl", [{"file_name": path, "label": label} for path, label in rows])
    record, samples = written(open_folder(folder), tmp_path / "out")
    assert [sample["cls"] for sample in samples] == [b"0"]
    assert record.bad == {"two labels in a metadata file": 1}


@pytest.mark.parametrize("labels", [{"images/a.png": 3, "images/b.png": 1}, [["images/a.png", 3], ["images/b.png", 1]]])
def test_labels_of_stylegan_in_both_forms(folder: Path, tmp_path: Path, labels: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert [sample["cls"] for sample in written(open_folder(folder), tmp_path / "out")[1]] == [b"3", b"1"]


def test_labels_that_are_no_class_are_counted_by_their_type(folder: Path, tmp_path: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": [["images/a.png", [1.0, 0.5]], ["images/b.png", 1]]}))
    record, samples = written(open_folder(folder), tmp_path / "out")
    assert (len(samples), record.bad) == (1, {"label of type list": 1})


def test_a_metadata_file_with_other_columns_names_the_way_out(folder: Path) -> None:
    metadata(folder / "metadata.csv", [{"image": "images/a.png", "prompt": "x"}])
    with pytest.raises(ValueError, match=r"no column file_name .*, but image, prompt; name it so, or read it as a table, `prepare_data.py table "):
        open_folder(folder)


TEXTS = ["a cat, or two", 'the "best" é', '6" of rope']
QUOTED = ["a cat, or two", '"the ""best"" é"', '6" of rope']


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "\ufefffilepath;title\n" + "".join(f"images/a.png;{text}\n" for text in QUOTED)),
        ("t.csv", "sep=;\r\nfilepath;title\r\n" + "".join(f"images/a.png;{text}\r\n" for text in QUOTED)),
        ("t.csv", "filepath| number| title \n" + "".join(f"images/a.png| 0| {text}\n" for text in QUOTED)),
        ("t.csv", "filepath, title\n" + "".join(f'images/a.png, "{text.replace(chr(34), 2 * chr(34))}"\n' for text in TEXTS)),
        ("t.tsv", "filepath\ttitle\n" + "\n".join(f"images/a.png\t{text}" for text in QUOTED)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_of_spreadsheets(folder: Path, tmp_path: Path, name: str, content: str, encoding: str) -> None:
    (folder / name).write_bytes(content.removeprefix("\ufeff" if encoding == "utf-16" else "").encode(encoding))
    assert texts(open_table(folder / name, "filepath", "title"), tmp_path / "out") == TEXTS


def test_a_row_with_more_cells_than_columns_is_counted_and_not_cut(folder: Path, tmp_path: Path) -> None:
    (folder / "t.csv").write_text("filepath,title\nimages/a.png,a cat, a dog\nimages/b.png,good\nimages/b.png\n")
    record, samples = written(open_table(folder / "t.csv", "filepath", "title"), tmp_path / "out")
    assert ([sample["txt"] for sample in samples], record.bad) == ([b"good"], {"more cells than columns": 1, "missing caption": 1})


def test_a_quote_that_is_not_closed_swallows_no_rows(folder: Path) -> None:
    (folder / "t.csv").write_text('filepath,title\nimages/a.png,x\nimages/a.png,"open\nimages/b.png,y\nimages/b.png,z\n')
    with pytest.raises(ValueError, match=r"t.csv: a quote that a cell begins with is not closed, at line 3 or below; write quotes in texts twice"):
        open_table(folder / "t.csv", "filepath", "title")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            json.dumps({"filepath": "a.png"}, indent=1).encode(),
            "none of its first lines is a JSON object, as lines of .jsonl are; write a list of objects as .json",
        ),
        ('{"filepath": "a.png"}'.encode("utf-16"), "is UTF-16; write it as UTF-8: `iconv"),
        (b"", "has no rows"),
    ],
)
def test_lines_that_are_no_json_are_refused_in_a_sentence(folder: Path, content: bytes, said: str) -> None:
    (folder / "t.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        open_table(folder / "t.jsonl", "filepath")


@pytest.mark.parametrize(("there", "written_as"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_accents_as_macos_writes_them(tmp_path: Path, there: str, written_as: str) -> None:
    name = "für/été.png"
    folder = put(tmp_path / "in", **{unicodedata.normalize(there, name): picture()})
    rows = [{"file_name": unicodedata.normalize(written_as, name), "text": "x"}]
    source = open_table(table(folder / "t.csv", ",", rows), "file_name", "text")
    assert texts(source, tmp_path / "table") == ["x"]
    (folder / "t.csv").unlink()
    metadata(folder / "metadata.jsonl", rows)
    assert texts(open_folder(folder), tmp_path / "folder") == ["x"]
