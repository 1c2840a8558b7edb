"""The layouts that people have are told from a look, and the command that is named reads them.

Nerogar/OneTrainer and kohya-ss/sd-scripts: `10_name` folders; NVlabs/stylegan2-ada-pytorch: dataset.json; huggingface/datasets#6442: metadata.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from genlib.data.importers.folder import open_folder
from jobs.prepare_data import main
from tests.data.shards import picture
from tests.field.test_captions_and_labels import metadata, put, written


def looked_at(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    main(["look", str(path)])
    return {line[:16].strip(): line[17:] for line in capsys.readouterr().out.splitlines()}


def test_a_look_says_the_layout_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {"a.png": picture(), "b.png": picture()}
    kinds = {
        "captions": (put(tmp_path / "captions", **images, **{"a.txt": b"x", "b.caption": b"y"}), "images with captions beside them"),
        "classes": (put(tmp_path / "classes", **{"x/a.png": picture(), "y/b.png": picture()}), "images in class folders"),
        "plain": (put(tmp_path / "plain", **images), "images without captions and labels"),
        "repeats": (put(tmp_path / "repeats", **{"10_cat/a.png": picture()}), "folders with repeats, as sd-scripts has them"),
        "metadata": (put(tmp_path / "metadata", **images), "an image folder with metadata, as `datasets` and diffusers"),
    }
    metadata(tmp_path / "metadata" / "metadata.jsonl", [{"file_name": "a.png", "text": "x"}])
    for path, kind in kinds.values():
        said = looked_at(path, capsys)
        assert said["layout"] == kind
        assert said["command"].startswith(f"python jobs/prepare_data.py folder {path} --out OUT")
    table = tmp_path / "t.csv"
    table.write_text("path,caption,label\na.png,x,1\n")
    assert looked_at(table, capsys)["command"].endswith(f"table {table} --out OUT --image-column path --caption-column caption --label-column label")


def test_folders_with_repeats(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", **{"3_cat/a.png": picture(), "2_dog/b.png": picture(), "2_dog/b.txt": b"a good dog"})
    assert open_folder(folder).total == 2
    _, samples = written(open_folder(folder, repeats=True), tmp_path / "out")
    assert [sample["txt"] for sample in samples] == [b"a good dog"] * 2 + [b"cat"] * 3


def test_stylegan_zips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"labels": [["00000/img0.png", 6], ["00000/img1.png", 2]]}
    folder = put(tmp_path / "in", **{"00000/img0.png": picture(), "00000/img1.png": picture(), "dataset.json": json.dumps(labels).encode()})
    _, samples = written(open_folder(folder), tmp_path / "out")
    assert [sample["cls"] for sample in samples] == [b"6", b"2"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("dataset.json", json.dumps(labels))
    assert looked_at(tmp_path / "set.zip", capsys)["layout"] == "StyleGAN's zip, with labels, 1 files"
