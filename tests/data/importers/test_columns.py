"""Columns that nobody named: those of usual names, tables without header, tables of addresses."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from genlib.data.importers.columns import TableColumns
from genlib.data.importers.image_files import AUTO
from genlib.data.importers.table import columns_in, open_table
from jobs.prepare_data import main


def found(tmp_path: Path, text: str, name: str = "t.csv") -> TableColumns:
    (tmp_path / name).write_text(text)
    return columns_in(tmp_path / name, TableColumns(AUTO, AUTO, AUTO))


@pytest.mark.parametrize("image", ["path", "file_name", "Filepath", "IMAGE", "img path"])
@pytest.mark.parametrize("caption", ["text", "Caption", "prompt", "title"])
def test_usual_names_are_taken_in_any_case(tmp_path: Path, image: str, caption: str) -> None:
    text = f"id,{image},{caption},Label,width\n1,a.png,a cat,3,640\n2,b.png,a dog,4,480\n"
    assert found(tmp_path, text) == TableColumns(image, caption, "Label")


def test_an_image_column_of_another_name_is_known_by_what_it_holds(tmp_path: Path) -> None:
    assert found(tmp_path, "n;where;words\n1;x/a.JPG;a cat\n2;;a dog\n3;b.png;a cow\n") == TableColumns("where")


def test_where_no_column_holds_paths_the_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"which column holds the paths of the images\? Give --image-column, one of n, words$"):
        found(tmp_path, "n,words\n1,a cat\n")


@pytest.mark.parametrize(("delimiter", "name"), [(",", "t.csv"), (";", "t.csv"), ("\t", "t.csv"), ("\t", "t.tsv"), (",", "t.tsv")])
def test_a_table_without_header(tmp_path: Path, delimiter: str, name: str) -> None:
    captions = "\n".join(delimiter.join(row) for row in (("a.png", "a cat"), ("b.png", "a dog"), ("c.png", "a cow")))
    assert found(tmp_path, captions, name) == TableColumns("1", "2")
    (tmp_path / name).write_text(
        "\n".join(delimiter.join(row) for row in (("7", "a.png", "cat"), ("8", "b.png", "cat"), ("9", "c.png", "dog"), ("6", "d.png", "dog")))
    )
    source = open_table(tmp_path / name)
    assert source.total == 4, "the first row is a sample"
    assert source.said["images"] == "column '2'"
    assert source.said["labels"].startswith("2 classes by name from column '3': cat is 0, dog is 1")


def test_what_is_not_taken_is_said_with_the_way_to_take_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,words\na.png,a cat\n")
    said = open_table(tmp_path / "t.csv").said
    assert said["captions"] == "none (no column has a usual name; --caption-column names one of path, words)"
    assert open_table(tmp_path / "t.csv", caption="none").said["captions"] == "none"


def test_a_column_of_masks_is_no_label(tmp_path: Path) -> None:
    assert found(tmp_path, "path,label\na.png,a.mask.png\n") == TableColumns("path")


def test_parquet_with_bytes_beside(tmp_path: Path) -> None:
    table = pyarrow.table({"thumb": [b"x"], "caption": [["a cat", "a pet"]], "file_name": ["a.png"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert columns_in(tmp_path / "t.parquet", TableColumns(AUTO, AUTO, AUTO)) == TableColumns("file_name", "caption")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "url,caption\nhttps://x/a.jpg,a cat\n", "--input_format csv --url_col url --caption_col caption"),
        ("t.tsv", "a cat\thttps://x/1\na dog\thttps://x/2\n", "--input_format tsv --url_col 2"),
        ("t.jsonl", json.dumps({"image": "http://x/a.jpg", "n": 1}), "--input_format jsonl --url_col image"),
    ],
)
def test_a_table_of_addresses_is_told_of_img2dataset(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(ValueError, match="holds addresses and no files; fetch them with `img2dataset --url_list") as error:
        found(tmp_path, text, name)
    assert words in str(error.value)
    with pytest.raises(SystemExit):
        main(["table", str(tmp_path / name), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
