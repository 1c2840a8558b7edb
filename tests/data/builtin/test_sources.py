"""Fashion-MNIST and emoji: read strictly, complete, and split so that nothing held out has a twin among what is learnt."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlib.config import DataConfig
from genlib.data.builtin.catalog import emoji, fashion_mnist, prepared, write_emoji, write_fashion_mnist
from genlib.data.source import open_source
from tests.data.builtin.test_builtin import everything


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_files(folder: Path, packed: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A small set in the form of the true one; its training images and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for stem, count in (("t10k", 10), ("train", 30)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{stem}-{kind}-ubyte"
            path = path.with_name(f"{path.name}.gz") if packed else path
            path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    return images, labels


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_from_a_folder_that_the_user_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    images, labels = write_files(tmp_path / "files", packed)
    monkeypatch.setenv("GENLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GENLIB_FASHION_MNIST", str(tmp_path / "files"))
    source = open_source(DataConfig(train="fashion_mnist"))
    assert (source.spec.channels, source.spec.image_size, source.spec.class_names) == (1, 28, fashion_mnist.CLASS_NAMES)
    assert (source.num_samples("train"), source.num_samples("validation")) == (30, 10)
    values = everything(source, "train")
    assert (np.stack(values["image"])[:, :, :, 0] == images).all()
    assert values["label"] == labels.tolist()
    assert values["text"][9] == "ankle boot"


def test_other_files_make_another_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.setenv("GENLIB_FASHION_MNIST", str(tmp_path))
    before = fashion_mnist.fingerprint()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(10, np.uint8))))
    assert fashion_mnist.fingerprint() != before


def test_idx_files_that_are_wrong(tmp_path: Path) -> None:
    write_files(tmp_path, packed=False)
    path = tmp_path / "train-labels-idx1-ubyte"
    good = path.read_bytes()
    wrong = {
        "is not an IDX file of bytes with 1 dimensions": (b"", good[:6], b"\0\0\x0d\1" + good[4:], good[:3] + b"\3" + good[4:]),
        "should have 38 bytes": (good[:-1], good + b"\0"),
        "should have 4,294,967,303 bytes": (good[:4] + b"\xff" * 4 + good[8:],),
    }
    for sentence, contents in wrong.items():
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(ValueError, match=sentence):
                fashion_mnist.load("train", tmp_path)
    for content in (good[:8] + b"\x0a" * 30, good[:4] + struct.pack(">I", 29) + good[9:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="do not fit together"):
            fashion_mnist.load("train", tmp_path)
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(good)[:-9])
    with pytest.raises(ValueError, match="cannot be read"):
        fashion_mnist.load("train", tmp_path)


def test_what_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"there is no train-images-idx3-ubyte.gz in .*; install Debian's dataset-fashion-mnist"):
        fashion_mnist.find(tmp_path)
    monkeypatch.setenv("GENLIB_EMOJI_FONT", str(tmp_path / "none.ttf"))
    with pytest.raises(ValueError, match=r"there is no emoji font at .*none.ttf; install Debian's fonts-noto-color-emoji"):
        prepared("emoji")
    (tmp_path / "none.ttf").write_bytes(b"no font")
    with pytest.raises(ValueError, match="has no bitmaps of 109 pixels"):
        next(emoji.draw(emoji.find()))


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_true_fashion_mnist_is_whole() -> None:
    for split, count in (("train", 60_000), ("validation", 10_000)):
        images, labels = fashion_mnist.load(split, fashion_mnist.DEBIAN)
        assert images.shape == (count, 28, 28)
        assert (np.bincount(labels) == count // 10).all()


HAS_FONT = any(path.is_file() for path in emoji.FONTS)


@pytest.mark.skipif(not HAS_FONT, reason="no emoji font is installed")
def test_emoji_are_coloured_named_and_split_without_twins(tmp_path: Path) -> None:
    written = write_emoji(tmp_path, 32)
    assert sum(written.counts.values()) > 1300
    assert 0.07 < written.counts["validation"] / sum(written.counts.values()) < 0.13
    source = open_source(DataConfig(train=str(tmp_path)))
    assert (source.spec.channels, source.spec.image_size, source.spec.has_captions) == (3, 32, True)
    train, held_out = (everything(source, split) for split in ("train", "validation"))
    names = train["text"] + held_out["text"]
    assert len(set(names)) == len(names)
    assert {"grinning face", "slice of pizza", "waxing gibbous moon symbol"} <= set(names)
    assert not {"digit one", "emoji modifier fitzpatrick type-3", "combining enclosing keycap"} & set(names)
    learnt, unseen = (np.stack(values["image"]).astype(float) / 255 for values in (train, held_out))
    for images in (learnt, unseen):
        assert images.std(axis=(1, 2, 3)).min() > 0.02  # every one draws something
        assert images[:, 0, 0].min() > 0.9  # on white
    small = [images.reshape(len(images), 16, 2, 16, 2, 3).mean(axis=(2, 4)).reshape(len(images), -1) for images in (learnt, unseen)]
    nearest = min(((small[0] - one) ** 2).mean(axis=1).min() ** 0.5 for one in small[1])
    assert nearest > 0.04
    clocks = [any(name.startswith("clock face") for name in values["text"]) for values in (train, held_out)]
    assert sum(clocks) == 1


def test_groups_follow_chains() -> None:
    def bar(column: int) -> Image.Image:
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[:, column : column + 4] = 51
        return Image.fromarray(pixels)

    far = Image.fromarray(np.full((64, 64, 3), 255, np.uint8))
    assert emoji.groups([bar(0), far, bar(4)]).tolist() == [0, 1, 2]
    assert emoji.groups([bar(0), far, bar(4), bar(2)]).tolist() == [0, 1, 0, 0]


@pytest.mark.skipif(not HAS_FONT, reason="no emoji font is installed")
def test_the_split_does_not_depend_on_the_size(tmp_path: Path) -> None:
    font = emoji.find()
    texts = [[sample["txt"] for sample in emoji.samples("validation", size, font)] for size in (8, 16)]
    assert texts[0] == texts[1]


def test_fashion_mnist_is_written_the_same_again(tmp_path: Path) -> None:
    write_files(tmp_path / "files")
    for out in ("one", "two"):
        assert write_fashion_mnist(tmp_path / out, 14, tmp_path / "files").counts == {"train": 30, "validation": 10}
    assert (tmp_path / "one" / "train-00000.tar").read_bytes() == (tmp_path / "two" / "train-00000.tar").read_bytes()
