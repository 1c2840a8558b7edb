"""The verbs of prepare_data: what they print, write and refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlib.data.builtin import icons as icon_fonts
from genlib.data.shards.writer import png
from jobs.prepare_data import VERBS, main
from tests.data.shards import pair, write_set, write_tar


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))


def test_icons_write_shards_counts_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["icons", "--out", str(tmp_path / "i"), "--families", "elusiveicons", "--held-out", "codicon", "--size", "16"])
    assert capsys.readouterr().out.startswith("304 train and 568 validation samples; empty glyphs: 1")
    assert {path.name for path in (tmp_path / "i").glob("*.tar")} == {"train-00000.tar", "validation-00000.tar"}
    assert Image.open(tmp_path / "i" / "contact_sheet.png").width > 500


def test_shapes_take_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["shapes", "--out", str(tmp_path), "--train", "12", "--validation", "3", "--size", "16"])
    assert capsys.readouterr().out.startswith("12 train and 3 validation samples;")


def test_an_unknown_verb_and_a_place_that_cannot_be_written_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for words, code, sentence in (
        (["foldr", "x"], 2, "there is no verb 'foldr'. Did you mean 'folder'? The verbs are folder, table,"),
        (["shapes", "--out", str(tmp_path / "file" / "x"), "--train", "2", "--validation", "1"], 1, f"{tmp_path / 'file' / 'x'}: Not a directory"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = capsys.readouterr()
        assert (ended.value.code, said.out, said.err.count("\n")) == (code, "", 1)
        assert sentence in said.err


def test_verify_prints_one_json_object_and_exits_by_the_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path, 20)
    main(["verify", str(tmp_path)])
    assert json.loads(capsys.readouterr().out) == {"shards": 2, "samples": 20, "bad": {}, "members": {"seen": 60, "used": 60, "unused": {}}}
    write_tar(tmp_path / "00001.tar", [*pair(1), ("x.png", b"no"), ("x.txt", b"x"), ("x.cls", b"1")])
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path)])
    assert ended.value.code == 1
    output = capsys.readouterr()
    members = {"seen": 36, "used": 33, "unused": {"undecodable header": 3}}
    assert json.loads(output.out) == {"shards": 2, "samples": 11, "bad": {"undecodable header": 1}, "members": members}
    assert "undecodable header: first is 00001.tar:x" in output.err
    main(["verify", str(tmp_path), "--max-bad", "0.1"])


def test_look_counts_buckets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [(f"{number}.png", png(np.zeros((40, 30 + 10 * number), np.uint8))) for number in range(5)]
    write_tar(tmp_path / "set" / "0.tar", entries)
    main(["look", str(tmp_path / "set"), "--out", str(tmp_path / "sheet.png"), "--image-size", "32", "--bucket-step", "8"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.startswith("bucket")]
    assert lines == [
        "bucket 24 x 40 1 sample, 80% of their pixels",
        "bucket 32 x 32 2 samples, 90% of their pixels",
        "bucket 40 x 24 2 samples, 93% of their pixels",
    ]
    with pytest.raises(SystemExit):
        main(["look", str(tmp_path / "set"), "--bucket-step", "8"])
    assert "--image-size is 0" in capsys.readouterr().err


def test_look_draws_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["look", str(write_set(tmp_path / "set", 20)), "--out", str(tmp_path / "sheet.png"), "--count", "5"])
    assert "20 samples in 2 shards" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["verify", "/nowhere"], "there are no shards"),
        (["icons", "--out", "never-made", "--families", "codicn"], "Did you mean 'codicon'"),
        (["icons", "--out", "never-made", "--size", "0"], "--size 0 is out of range"),
        (["shapes", "--out", "never-made", "--train", "0"], "must be at least 1"),
        (["emoji", "--out", "never-made", "--font", "/nowhere.ttf"], "there is no emoji font at /nowhere.ttf"),
        (["fashion_mnist", "--out", "never-made", "--files", "/nowhere"], "there is no train-images-idx3-ubyte.gz in /nowhere"),
        (["folder", "/nowhere", "--out", "never-made"], "there is no folder /nowhere"),
        (["table", "/nowhere.csv", "--out", "never-made", "--image-column", "path"], "there is no table /nowhere.csv"),
        (["table", "/nowhere.csv", "--out", "never-made", "--image-column", "path", "--size", "2"], "--size 2 is out of range"),
        (["folder", "tests", "--out", "never-made"], "holds no images"),
        (["folder", "tests", "--out", "never-made", "--validation-share", "1"], "--validation-share 1 is out of range"),
    ],
)
def test_wrong_values_get_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not Path("never-made").exists()


def test_the_help_has_a_line_for_each_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    asked = [line.split()[2] for line in lines if line.startswith("    python jobs/prepare_data.py ")]
    assert set(asked) == set(VERBS)
    assert max(line.count("python jobs/prepare_data.py") for line in lines) == 1


def test_the_help_of_icons_names_all_families(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="There are ") as error:
        icon_fonts.family("?")
    families = str(error.value).partition("There are ")[2].partition(";")[0].split(", ")
    assert len(families) > 10
    with pytest.raises(SystemExit):
        main(["icons", "--help"])
    helped = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [name for name in families if name not in helped] == []
