"""Pictures for translation: pairs side by side or in folders A and B, and two sets without pairs; what look says of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlib.config import DataConfig
from genlib.data.importers.pairs import open_domain, open_pairs, placed
from genlib.data.source import ShardSource, open_source
from genlib.data.transforms.plain import PlainTransform
from jobs.prepare.convert import Output, convert
from jobs.prepare.layout import layout
from jobs.prepare_data import main
from tests.data.shards import write_tar


def pixels(seed: int, width: int = 20, height: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray) -> np.ndarray:
    """Writes a picture; what a reader sees of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return np.asarray(Image.open(path).convert("RGB"))


def values(source: ShardSource, split: str, *fields: str) -> dict[str, list[np.ndarray]]:
    chosen = source._split(split)
    return chosen.reader.read(np.arange(len(chosen.shards)), fields)[1]


@pytest.mark.parametrize(
    ("path", "side", "split", "key"),
    [
        ("trainA/x.1.jpg", "A", "train", "train/x.1"),
        ("test_B/deep/x.jpg", "B", "test", "test/deep/x"),
        ("A/val/x.png", "A", "validation", "val/x"),
        ("val/B/x.png", "B", "validation", "val/x"),
        ("A/x.png", "A", "", "x"),
        ("train/x.png", "", "train", "train/x"),
        ("PIZZA/x.png", "", "", "PIZZA/x"),
        ("datA/x.png", "", "", "datA/x"),
    ],
)
def test_a_path_says_its_set_and_split(path: str, side: str, split: str, key: str) -> None:
    assert (placed(path).side, placed(path).split, placed(path).key) == (side, split, key)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pairs_side_by_side_are_cut_in_the_middle(tmp_path: Path, ending: str) -> None:
    files = [save(tmp_path / "ab" / split / f"{at}.{ending}", pixels(at, 40)) for split in ("train", "val") for at in range(2)]
    main(["pairs", str(tmp_path / "ab"), "--out", str(tmp_path / "out")])
    source = open_source(DataConfig(train=str(tmp_path / "out")))
    assert (source.spec.has_source, source.spec.image_size, source.num_samples("validation")) == (True, 20, 2)
    near = 0 if ending == "png" else 12
    for split, whole in (("train", files[:2]), ("validation", files[2:])):
        found = values(source, split, "source", "image")
        for left, right, both in zip(found["source"], found["image"], whole, strict=True):
            assert np.abs(left.astype(int) - both[:, :20]).mean() <= near
            assert np.abs(right.astype(int) - both[:, 20:]).mean() <= near


def test_partners_are_found_by_name_and_what_has_none_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "both"
    truth = {(side, at): save(root / side / "train" / f"{at}.png", pixels(10 * at + (side == "B"))) for side in "AB" for at in range(3)}
    save(root / "A" / "train" / "lonely.png", pixels(77))
    save(root / "A" / "train" / "wide.png", pixels(78, 22))
    save(root / "B" / "train" / "wide.png", pixels(79, 20))
    main(["pairs", str(root), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "1 missing partner, first A/train/lonely.png" in said
    assert "1 pictures of two sizes, first train/wide" in said
    source = open_source(DataConfig(train=str(tmp_path / "out")))
    found = values(source, "train", "source", "image")
    for at in range(3):
        assert np.array_equal(found["source"][at], truth["A", at])
        assert np.array_equal(found["image"][at], truth["B", at])


def test_two_sets_with_their_splits(tmp_path: Path) -> None:
    root, counts = tmp_path / "horses", {"trainA": 5, "trainB": 7, "testA": 2, "testB": 3}
    for number, (folder, count) in enumerate(counts.items()):
        for at in range(count):
            save(root / folder / f"{folder}{at}.png", np.full((8, 8, 3), 50 * number + at, np.uint8))
    main(["domains", str(root), "--out", str(tmp_path / "out")])
    source = open_source(DataConfig(train=str(tmp_path / "out" / "A"), other=str(tmp_path / "out" / "B")))
    assert "a second set of 7 samples, held out 3" in source.described
    assert source.spec.has_other
    transform = PlainTransform(8, ("other",))
    trained, held = (next(source.batches(split, size, transform=transform)) for split, size in (("train", 35), ("validation", 2)))

    def levels(images) -> set[int]:
        return set((images[:, 0, 0, 0] * 255).round().int().tolist())

    assert levels(trained["image"]) == set(range(5))
    assert levels(trained["other_image"]) == set(range(50, 57))
    assert levels(held["image"]) == {100, 101}
    assert levels(held["other_image"]) < set(range(150, 153))


@pytest.mark.parametrize(
    ("folders", "verb", "words"),
    [
        (("A",), "pairs", "holds pictures of A and none of B"),
        (("A", "B"), "pairs", "no picture of A has a partner of the same name in B"),
        (("trainA",), "domains", "no pictures of domain B; put them into folders called B"),
        ((), "pairs", "holds no images"),
    ],
)
def test_bad_input_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], folders: tuple[str, ...], verb: str, words: str) -> None:
    (tmp_path / "in").mkdir()
    for folder in folders:
        save(tmp_path / "in" / folder / f"{folder}.png", pixels(0))
    with pytest.raises(SystemExit) as code:
        main([verb, str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert code.value.code == 2
    assert words in said
    assert said.count("\n") == 1


def test_an_odd_width_is_no_pair(tmp_path: Path) -> None:
    save(tmp_path / "x.png", pixels(0, 41))
    with pytest.raises(ValueError, match="none of the samples can be used: 1 pictures of two sizes"):
        convert("pairs", open_pairs(tmp_path), Output(out=tmp_path / "out"))


def test_look_says_which_layout_it_is_and_the_command(tmp_path: Path) -> None:
    for at in range(3):
        save(tmp_path / "ab" / "train" / f"{at}.png", pixels(at, 40))
        for folder in ("trainA", "trainB"):
            save(tmp_path / "cycle" / folder / f"{folder}{at}.png", pixels(at))
            save(tmp_path / "pairs" / folder / f"{at}.png", pixels(at))
        for letter in "ABC":
            save(tmp_path / "letters" / letter / f"{at}.png", pixels(at))
    said = {name: layout(tmp_path / name) or "" for name in ("ab", "cycle", "pairs", "letters")}
    assert f"prepare_data.py pairs {tmp_path / 'ab'} --out OUT" in said["ab"]
    assert "two sets without pairs, as CycleGAN has them" in said["cycle"]
    assert f"prepare_data.py domains {tmp_path / 'cycle'} --out OUT" in said["cycle"]
    assert "pairs in folders A and B, as pix2pix has them" in said["pairs"]
    assert f"prepare_data.py pairs {tmp_path / 'pairs'} --out OUT" in said["pairs"]
    assert "images in class folders" in said["letters"]


def test_look_says_which_pictures_a_conversion_leaves_out(tmp_path: Path) -> None:
    for at in range(5):
        save(tmp_path / f"{at}.png", pixels(at))
    assert "left out" not in (layout(tmp_path) or "")
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "3.png").write_bytes(b"no picture")
    content = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").write_bytes(content[: len(content) // 2])
    assert "left out         3 of 5 that were opened: 2 not an image, first 2.png; 1 undecodable, first 4.png" in (layout(tmp_path) or "")


def test_pictures_of_two_sizes_get_no_number_in_any_shards(tmp_path: Path) -> None:
    def png(side: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels(0, side, side)).save(buffer, "PNG")
        return buffer.getvalue()

    write_tar(tmp_path / "0.tar", [("a.png", png(8)), ("a.source.png", png(8)), ("b.png", png(8)), ("b.source.png", png(9))])
    source = open_source(DataConfig(train=str(tmp_path)))
    assert source.num_samples("train") == 1
    assert "pictures of two sizes 1" in source.described
    assert values(source, "train", "source")["source"][0].shape == (8, 8, 3)


def test_another_second_set_is_another_data_set(tmp_path: Path) -> None:
    for name, shade in (("one", 1), ("two", 2)):
        for side in "AB":
            save(tmp_path / name / side / "x.png", np.full((8, 8, 3), shade if side == "B" else 0, np.uint8))
        main(["domains", str(tmp_path / name), "--out", str(tmp_path / f"{name}-out")])
    first = DataConfig(train=str(tmp_path / "one-out" / "A"), other=str(tmp_path / "one-out" / "B"))
    second = DataConfig(train=str(tmp_path / "one-out" / "A"), other=str(tmp_path / "two-out" / "B"))
    alone = DataConfig(train=str(tmp_path / "one-out" / "A"))
    assert len({open_source(config).spec.digest for config in (first, second, alone)}) == 3


def test_a_domain_is_its_own_pictures_alone(tmp_path: Path) -> None:
    for side in "AB":
        save(tmp_path / side / f"{side}.png", pixels(0))
    found = list(open_domain(tmp_path, "A").few(9))
    assert [one.name for one in found] == ["A/A.png"]
