"""The layouts that people have are told from a look, and the command that is named reads them.

Nerogar/OneTrainer and kohya-ss/sd-scripts: `10_name` folders; NVlabs/stylegan2-ada-pytorch#18, #111 and #126, NVlabs/stylegan3#90,
eps696/stylegan2ada#18: dataset.json, and folders that are no classes; huggingface/datasets#6442 and #6777: metadata.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from genlib.data.importers.folder import open_folder
from genlib.data.importers.zip_archive import open_zip
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


LABELS = {"labels": [["00000/img0.png", 6], ["00000/img1.png", 2]]}
TWO = {"00000/img0.png": picture(), "00000/img1.png": picture()}


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("above", ["", "ffhq/"])
def test_stylegan_zips(tmp_path: Path, capsys: pytest.CaptureFixture[str], above: str) -> None:
    files = {f"{above}{path}": data for path, data in {**TWO, "dataset.json": json.dumps(LABELS).encode()}.items()}
    archive = zipped(tmp_path / "my set.zip", **files, **{"__MACOSX/00000/._img0.png": b"x"})
    for source in (open_folder(put(tmp_path / "in", **files)), open_zip(archive)):
        record, samples = written(source, tmp_path / "out")
        assert ([sample["cls"] for sample in samples], record.bad) == ([b"6", b"2"], {})
    said = looked_at(archive, capsys)
    assert (said["layout"], said["images"]) == ("StyleGAN's zip, with labels", "2")
    assert said["labels"] == f"2 classes from {above}dataset.json, numbers as they are: 2 to 6"
    assert said["files"] == "3 seen = 2 images + 1 other .json"
    assert said["command"] == f"python jobs/prepare_data.py folder '{archive}' --out OUT"


def test_a_zip_is_converted_as_its_folder_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"{n // 10:05d}/img{n:08d}.png": picture(n) for n in range(30)} | {"dataset.json": b'{"labels": null}'}
    folder, archive = put(tmp_path / "set", **files), zipped(tmp_path / "set.zip", **files)
    lines, shards = [], []
    for where, out in ((folder, tmp_path / "a"), (archive, tmp_path / "b")):
        main(["folder", str(where), "--out", str(out), "--validation-share", "0.2"])
        lines.append(capsys.readouterr().out)
        shards.append({path.name: path.read_bytes() for path in out.glob("*.tar")})
    assert shards[0] == shards[1]
    assert all("30 samples seen = 30 used + 0 bad" in line for line in lines)
    assert "labels: none" in lines[1]
    assert open_zip(archive, "folders").said["labels"] == "3 classes from folders, numbers as they are: 0 to 2"
    with pytest.raises(SystemExit):
        main(["folder", str(archive), "--out", str(tmp_path / "c"), "--repeats"])
    assert "is a zip, of which images and --labels are read; for other options unpack it and give the folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "labels", [{"00000/img0.png": 0}, {"00000/img0.png": None, "00000/img1.png": 4}, {"00000/img0.png": [1.0, 2.0], "gone.png": 3}]
)
def test_what_a_zip_lists_and_what_it_holds_are_counted_as_of_a_folder(tmp_path: Path, labels: dict[str, Any]) -> None:
    files = {**TWO, "dataset.json": json.dumps({"labels": labels}).encode()}
    found = open_folder(put(tmp_path / "in", **files)), open_zip(zipped(tmp_path / "set.zip", **files))
    problems = [[(raw.name, raw.label, raw.problem) for part in source.cut(9) for raw in source.read(part)] for source in found]
    assert [[(name, label, problem.replace("dataset.json", "the metadata file")) for name, label, problem in one] for one in problems] == [
        problems[0]
    ] * 2


def test_a_zip_with_captions_or_without_images_is_refused(tmp_path: Path) -> None:
    for more in ("00000/img0.txt", "metadata.jsonl"):
        with pytest.raises(ValueError, match=rf"holds captions, such as {more}, which are read from a folder; unpack it: `unzip -q .*`, and give"):
            open_zip(zipped(tmp_path / "set.zip", **TWO, **{more: b"x"}))
    with pytest.raises(ValueError, match="holds no images that are read"):
        open_zip(zipped(tmp_path / "set.zip", **{"dataset.json": b'{"labels": null}'}))


def test_an_image_that_is_damaged_in_a_zip_is_counted(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "set.zip", **TWO)
    data = archive.read_bytes()
    archive.write_bytes(data.replace(TWO["00000/img1.png"], bytes(len(TWO["00000/img1.png"])), 1))
    record, samples = written(open_zip(archive), tmp_path / "out")
    assert (len(samples), record.bad) == (1, {"unreadable image": 1})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"labels": [["00000/img0.png", 1],]}', r"dataset.json is no JSON \(.*write it anew, or take it away"),
        (b'{"labels": [1, 2]}', r"dataset.json: its labels are no list of \[path, label\]; write"),
        (b'{"labels": [["00000/img0.png", 1, 2]]}', "no list of"),
        (b'{"labels": "cat"}', "no list of"),
    ],
)
def test_a_list_of_labels_that_is_damaged_is_refused_and_not_left_out(tmp_path: Path, content: bytes, said: str) -> None:
    files = {**TWO, "dataset.json": content}
    with pytest.raises(ValueError, match=said):
        open_folder(put(tmp_path / "in", **files))
    with pytest.raises(SystemExit):
        main(["look", str(zipped(tmp_path / "set.zip", **files))])


@pytest.mark.parametrize("content", [b"PK", b""])
def test_a_zip_that_is_cut_off_is_refused_in_a_sentence(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(SystemExit):
        main(["look", str(tmp_path / "set.zip")])
    assert "cannot be read as a zip (File is not a zip file); get it again" in capsys.readouterr().err


def test_labels_of_stylegan_as_windows_writes_their_paths(tmp_path: Path) -> None:
    content = json.dumps(LABELS).replace("/", "\\\\").encode()
    record, samples = written(open_folder(put(tmp_path / "in", **TWO, **{"dataset.json": content})), tmp_path / "out")
    assert ([sample["cls"] for sample in samples], record.bad) == ([b"6", b"2"], {})
    said = zipped(tmp_path / "set.zip", **TWO, **{"dataset.json": content})
    assert main(["look", str(said)]) is None


def test_an_image_without_a_label_beside_labelled_ones_is_counted(tmp_path: Path) -> None:
    one = {"labels": [["00000/img0.png", None], ["00000/img1.png", 2]]}
    record, samples = written(open_folder(put(tmp_path / "in", **TWO, **{"dataset.json": json.dumps(one).encode()})), tmp_path / "out")
    assert ([sample["cls"] for sample in samples], record.bad) == ([b"2"], {"missing label": 1})


PIECES = {
    "StyleGAN": ("00000/img00000000.png", "00000/img00000999.png", "00001/img00001000.png"),
    "FFHQ": ("00000/00000.png", "01000/01000.png", "69000/69999.png"),
    "img2dataset": ("00000/000000000.jpg", "00000/000000007.jpg", "00001/000010000.jpg"),
}


@pytest.mark.parametrize("case", PIECES)
def test_folders_that_number_pieces_are_no_classes(tmp_path: Path, case: str) -> None:
    folder = put(tmp_path / "in", **dict.fromkeys(PIECES[case], picture()))
    source = open_folder(folder)
    assert {raw.label for part in source.cut(9) for raw in source.read(part)} == {None}
    assert source.said["labels"] == "none, as folders like 00000 are numbered pieces of one set; --labels folders takes them for classes"
    asked = open_folder(folder, labels="folders")
    assert len({raw.label for part in asked.cut(9) for raw in asked.read(part)}) == len({name[:5] for name in PIECES[case]})


def test_class_folders_with_numbers_in_four_digits_stay_classes(tmp_path: Path) -> None:
    source = open_folder(put(tmp_path / "in", **{f"{kind:05d}/{n:05d}_{k:05d}.ppm": picture() for kind in range(3) for n in (0, 1) for k in (0, 1)}))
    assert source.said["labels"] == "3 classes from folders, numbers as they are: 0 to 2"


def test_a_dataset_json_without_labels_says_that_folders_are_none(tmp_path: Path) -> None:
    files = {"cat/a.png": picture(), "dog/b.png": picture()}
    for content in (b'{"labels": null}', b'{"labels": []}', b'{"labels": [["cat/a.png", null], ["dog/b.png", null]]}'):
        source = open_folder(put(tmp_path / "in", **files, **{"dataset.json": content}))
        assert source.said["labels"] == "none, as dataset.json says"
    assert open_folder(tmp_path / "in", labels="folders").facts["class_names"] == ["cat", "dog"]
    put(tmp_path / "in", **{"dataset.json": b'{"name": "of another kind"}'})
    assert open_folder(tmp_path / "in").facts["class_names"] == ["cat", "dog"]


def test_labels_of_metadata_can_be_left_out(tmp_path: Path) -> None:
    files = {**TWO, "00000/img2.png": picture(), "dataset.json": json.dumps(LABELS).encode()}
    record, samples = written(open_folder(put(tmp_path / "in", **files), labels="none"), tmp_path / "out")
    assert (samples, record.bad) == ([{}, {}, {}], {})


def test_folders_with_repeats_one_level_below_are_asked_about(tmp_path: Path) -> None:
    folder = put(tmp_path / "my set", **{"img/10_cat/a.png": picture(), "reg/1_cat/b.png": picture()})
    with pytest.raises(
        ValueError, match=r"img holds folders with repeats such as 10_cat; give it alone, `folder '.*/my set/img' --repeats`, or --labels"
    ):
        open_folder(folder)
    assert open_folder(folder, labels="none").total == 2


def test_why_there_are_no_labels_is_said(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", **{"train/cat/a.png": picture(), "train/dog/b.png": picture(), "val/c.png": picture()})
    assert open_folder(folder).said["labels"] == "none, as val/c.png lies in no class folder"


def test_folders_that_systems_leave_are_no_classes(tmp_path: Path) -> None:
    folder = put(
        tmp_path / "in", **{"cat/a.png": picture(), "dog/b.png": picture(), "@eaDir/a.png/SYNO.jpg": picture(), "__MACOSX/cat/._a.png": b"x"}
    )
    assert open_folder(folder).facts["class_names"] == ["cat", "dog"]
    assert open_folder(folder).said["files"] == "4 seen = 2 images + 2 hidden"


def test_a_folder_without_pictures_that_are_read_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no images that are read .*; of the 2 .heic, convert what are images first"):
        open_folder(put(tmp_path / "in", **{"a.heic": b"x", "b.HEIC": b"x"}))


def test_a_table_beside_pictures_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "in", **{"images/a.png": picture(), "metadata1000.jsonl": b'{"image": "images/a.png", "caption": "x"}'})
    assert "(if metadata1000.jsonl has them, read it: `prepare_data.py table " in open_folder(folder).said["captions"]
    assert looked_at(folder, capsys)["layout"] == "images without captions and labels"


def test_captions_in_json_beside_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"a": {"caption": "one", "width": 3}, "b": {"caption": None}, "c": {"caption": 5}, "d": {}, "e": {"caption": "two", "tags": "x, y"}}
    files = {**{f"{name}.jpg": picture() for name in "abcdefg"}, **{f"{name}.json": json.dumps(value).encode() for name, value in values.items()}}
    folder = put(tmp_path / "in", **files, **{"f.json": b"{", "00000.parquet": b"PAR1"})
    record, samples = written(open_folder(folder), tmp_path / "out")
    assert [sample["txt"] for sample in samples] == [b"one", b"two"]
    assert record.bad == {"missing caption": 3, "caption of type int": 1, "bad JSON": 1}
    assert open_folder(folder).said["captions"] == "NAME.json 6, the field 'caption'"
    assert looked_at(folder, capsys)["layout"] == "images with captions beside them"
    assert written(open_folder(folder, caption_column="tags"), tmp_path / "tags")[1] == [{"txt": b"x, y"}]
    with pytest.raises(ValueError, match=r"no .json beside an image has a caption in the field 'caption_en'.* there are caption, tags"):
        open_folder(folder, caption_column="caption_en")
    put(folder, **{"a.txt": b"beside"})
    assert [sample["txt"] for sample in written(open_folder(folder), tmp_path / "txt")[1]] == [b"beside"]
    assert [sample["txt"] for sample in written(open_folder(folder, caption_ending="json"), tmp_path / "json")[1]] == [b"one", b"two"]


def test_lists_of_captions_in_json_beside_pictures(tmp_path: Path) -> None:
    files = {"a.jpg": picture(), "b.jpg": picture(), "a.json": b'{"captions": ["one", "two"]}', "b.json": b'{"captions": "alone"}'}
    _, samples = written(open_folder(put(tmp_path / "in", **files)), tmp_path / "out")
    assert [sample["captions.txt"] for sample in samples] == [b"one\ntwo", b"alone"]
