"""Built-in sets: made once, the same every time, complete, and without Qt."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genlib.config import DataConfig
from genlib.data.builtin import digits, icons, shapes
from genlib.data.builtin.catalog import prepared, write_icons, write_shapes
from genlib.data.shards.writer import write_shards
from genlib.data.source import ShardSource, open_source


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))


def everything(source: ShardSource, split: str) -> dict[str, np.ndarray]:
    """All samples of a split in stored order, as the reader gives them."""
    chosen = source._split(split)
    _, values, failed = chosen.reader.read(np.arange(len(chosen.shards)), chosen.shards.fields)
    assert not failed.any()
    return values


def test_the_icon_families_hold_what_is_promised() -> None:
    assert sum(len(icons.family(name).charmap) for name in icons.TRAIN) == 14_108
    assert sum(len(icons.family(name).charmap) for name in icons.VALIDATION) == 1_402


def test_icons_are_framed_alike_and_never_cut(tmp_path: Path) -> None:
    written = write_icons(tmp_path, 32, train=("elusiveicons",), validation=("codicon", "fontawesome5-regular"))
    assert written.counts == {"train": 304, "validation": 569 + 152 - 2}
    assert written.empty == ["codicon:blank", "fontawesome5-regular:font-awesome-logo-full"]
    source = open_source(DataConfig(train=str(tmp_path)))
    assert (source.spec.channels, source.spec.image_size, source.spec.has_captions) == (1, 32, True)
    assert source.spec.validation_name == "icons-codicon-fontawesome5-regular"
    for split in ("train", "validation"):
        values = everything(source, split)
        images = np.stack(values["image"])[:, :, :, 0].astype(float)
        border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
        assert border.max() == 0
        assert images.max(axis=(1, 2)).min() > 60  # every one is seen
        ink = images > 0
        rows, columns = ink.any(axis=2), ink.any(axis=1)
        for lit in (rows, columns):
            middle = (lit.argmax(axis=1) + 31 - lit[:, ::-1].argmax(axis=1)) / 2
            assert np.abs(middle - 15.5).max() <= 1
        longer = np.maximum(rows.sum(axis=1), columns.sum(axis=1))
        assert 25 <= np.median(longer) <= 29


def test_captions_are_words_and_facts_name_the_family(tmp_path: Path) -> None:
    write_icons(tmp_path, 16, train=("elusiveicons",), validation=())
    values = everything(open_source(DataConfig(train=str(tmp_path))), "train")
    assert "address book alt" in values["text"]
    assert values["json"][values["text"].index("address book alt")] == {"family": "elusiveicons", "name": "address-book-alt"}


def test_a_font_of_the_users_own() -> None:
    packaged = icons.family("codicon")
    charmap = packaged.font.with_name(packaged.font.name.replace("codicon", "codicon-charmap")).with_suffix(".json")
    own = icons.family(f"{packaged.font}:{charmap}")
    assert own.charmap == packaged.charmap
    with pytest.raises(ValueError, match="Did you mean 'phosphor'"):
        icons.family("phosphr")
    with pytest.raises(ValueError, match="must be a JSON object"):
        icons.family(f"{packaged.font}:{packaged.font}")


def test_no_qt_is_imported() -> None:
    code = (
        "import sys; from genlib.data.builtin import icons; next(icons.samples([icons.family('codicon')], 16, [])); "
        "assert not [name for name in sys.modules if 'qt' in name.lower()], sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_are_split_by_class(capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source(DataConfig(train="digits"))
    assert "made digits at 8 px: 1,442 train and 355 validation samples" in capsys.readouterr().err
    assert (source.spec.channels, source.spec.image_size, source.spec.class_names) == (1, 8, digits.CLASS_NAMES)
    train, held_out = (everything(source, split) for split in ("train", "validation"))
    shares = np.bincount(held_out["label"]) / (np.bincount(train["label"]) + np.bincount(held_out["label"]))
    assert np.abs(shares - 0.2).max() < 0.01
    assert train["text"][0] == digits.CLASS_NAMES[train["label"][0]]


def test_a_built_in_set_is_made_once_and_again_the_same() -> None:
    first = Path(prepared("digits"))
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.glob("*.tar")}
    assert prepared("digits") == str(first)
    assert {path.name: path.stat().st_mtime_ns for path in first.glob("*.tar")} == {name: when for name, (_, when) in before.items()}
    (first / "dataset.json").unlink()  # as after a kill
    prepared("digits")
    assert {path.name: path.read_bytes() for path in first.glob("*.tar")} == {name: content for name, (content, _) in before.items()}
    assert prepared("digits", 16) != str(first)
    assert prepared("no such set") == ""


def test_several_processes_make_a_set_at_once() -> None:
    code = "from genlib.data.builtin.catalog import prepared; print(prepared('digits'))"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate() for process in started]
    assert outputs[0][0] == outputs[1][0]
    assert sum(error.count("made digits") for _, error in outputs) == 1


def test_shapes_agree_with_their_factors(tmp_path: Path) -> None:
    write_shapes(tmp_path, 32, train=60, validation=20, seed=4)
    source = open_source(DataConfig(train=str(tmp_path)))
    assert source.spec.class_names == shapes.KINDS
    values = everything(source, "train")
    assert values["mask"][0].shape == (32, 32, 1)
    for image, mask, text, label, facts in zip(*(values[name] for name in ("image", "mask", "text", "label", "json")), strict=True):
        assert facts["color"] in text
        assert shapes.KINDS[label] == facts["kind"]
        inside = mask[:, :, 0] == 255
        assert (image[inside] == shapes.COLORS[facts["color"]]).all()
        assert image[mask[:, :, 0] == 0].max(initial=0) == 0
        rows, columns = np.nonzero(mask[:, :, 0] > 127)
        assert abs((columns.min() + columns.max() + 1) / 64 - facts["x"]) < 0.04
        assert rows.min() >= 0
        assert (np.ptp(columns) + 1) / 32 <= facts["size"] + 0.07
    assert shapes.sample(3, "train", 32, 4) == shapes.sample(3, "train", 32, 4)
    assert shapes.sample(3, "train", 32, 4) != shapes.sample(3, "validation", 32, 4)


def test_the_writer_is_deterministic_and_leaves_nothing_of_a_longer_set(tmp_path: Path) -> None:
    members = [{"txt": str(number).encode() * 50} for number in range(25)]
    assert write_shards(tmp_path, "train", members, max_count=10) == 25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-00000.tar", "train-00001.tar", "train-00002.tar"]
    first = (tmp_path / "train-00000.tar").read_bytes()
    assert write_shards(tmp_path, "train", members[:10], max_count=10) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.tar"]
    assert (tmp_path / "train-00000.tar").read_bytes() == first
    assert write_shards(tmp_path, "train", members, max_bytes=200) == 25
    assert len(list(tmp_path.iterdir())) > 3


def test_a_writer_that_fails_leaves_no_shard(tmp_path: Path) -> None:
    def failing():
        yield {"txt": b"1"}
        raise RuntimeError("power is gone")

    with pytest.raises(RuntimeError):
        write_shards(tmp_path, "train", failing())
    assert list(tmp_path.glob("*.tar")) == []


def test_facts_say_what_was_left_out(tmp_path: Path) -> None:
    write_icons(tmp_path, 8, train=("codicon",), validation=())
    assert json.loads((tmp_path / "dataset.json").read_text())["empty"] == ["codicon:blank"]
