"""Held-out samples that a run keeps: they come back as they were, and any reader of WebDataset opens them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from genlib.config import DataConfig
from genlib.data.shards.writer import write_facts, write_shards
from genlib.data.source import open_source
from genlib.sharing.held_out import HELD_OUT, read_held_out, write_held_out
from jobs.held_out import held_out_samples


def pixels(side: int, seed: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, *channels), dtype=np.uint8)


def test_they_come_back_in_order_small_ones_exactly(tmp_path: Path) -> None:
    given = [("an arrow, größer", pixels(8, 0)), ("", pixels(9, 1, 3)), ("large", pixels(120, 2, 3))]
    assert write_held_out(tmp_path, given) == 3
    found = read_held_out(tmp_path)
    assert [one.words for one in found] == [words for words, _ in given]
    assert [one.media_type for one in found] == ["image/png", "image/png", "image/jpeg"]
    for one, (_, image) in list(zip(found, given, strict=True))[:2]:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(one.image))), image)
    source = open_source(DataConfig(train=str(tmp_path / HELD_OUT), hold_out=0.0, image_size=8))
    assert list(source.captions("train", 3)) == ["an arrow, größer", "large"]  # no caption is no sample for it


def test_none_leave_nothing_and_what_is_no_whole_file_is_none(tmp_path: Path) -> None:
    assert read_held_out(tmp_path) == []
    write_held_out(tmp_path, [("a", pixels(8, 0))])
    content = (tmp_path / HELD_OUT).read_bytes()
    (tmp_path / HELD_OUT).write_bytes(content[:700])
    assert read_held_out(tmp_path) == []
    assert write_held_out(tmp_path, []) == 0
    assert not (tmp_path / HELD_OUT).exists()


def test_they_come_from_all_over_a_sorted_split_each_once_with_caption_or_class(tmp_path: Path) -> None:
    classes = sorted(f"class {number:02d}" for number in range(10))
    samples = []
    for number in range(500):
        image = io.BytesIO()
        Image.fromarray(np.full((8, 8), number // 2, np.uint8)).save(image, "PNG")
        samples.append({"png": image.getvalue(), "cls": str(number // 50).encode()})
    write_shards(tmp_path / "set", "train", samples[:10])
    write_shards(tmp_path / "set", "validation", samples)
    write_facts(tmp_path / "set", class_names=classes)
    source = open_source(DataConfig(train=str(tmp_path / "set"), image_size=8))
    found = list(held_out_samples(source, 8))
    assert len(found) == 240
    assert {words for words, _ in found} >= set(classes) - {"class 02", "class 09"}
    for words, image in found:
        assert words == f"class {2 * int(image[0, 0]) // 50:02d}"
    write_shards(tmp_path / "few", "train", samples[:10])
    write_shards(tmp_path / "few", "validation", samples[:100:2])
    few = held_out_samples(open_source(DataConfig(train=str(tmp_path / "few"), image_size=8)), 8)
    assert [int(image[0, 0]) for _, image in few] == list(range(50))


def test_a_caption_that_is_no_utf_8_does_not_end_a_run(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("L", (8, 8)).save(image, "PNG")
    samples = [{"png": image.getvalue(), "json": caption} for caption in (b'{"caption": "half \\ud800 a pair"}', '{"caption": "größer"}'.encode())]
    for split in ("train", "validation"):
        write_shards(tmp_path, split, samples)
    source = open_source(DataConfig(train=str(tmp_path), image_size=8, caption_field="caption"))
    assert [words for words, _ in held_out_samples(source, 8)] == ["half ? a pair", "größer"]


def test_captions_come_before_classes_and_no_held_out_split_is_none() -> None:
    icons = open_source(DataConfig(train="icons", image_size=16))
    words, image = next(held_out_samples(icons, 16))
    assert (words, image.shape) == (next(icons.captions("validation", 1)), (16, 16))
    rings = open_source(DataConfig(train="rings2d"))
    assert list(held_out_samples(rings, 8)) == []
