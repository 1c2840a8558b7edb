"""Contact sheets: every image is there, whole multiples for small ones, labels fit."""

from pathlib import Path

import numpy as np
from PIL import Image

from genlib.pictures import contact_sheet, save_contact_sheet


def test_a_sheet_shows_every_image() -> None:
    images = [np.full((8, 8), 30 * number + 5, np.uint8) for number in range(7)]
    pixels = np.asarray(contact_sheet(images, [""] * 7, columns=3, side=32))
    for number in range(7):
        assert (pixels == 30 * number + 5).all(axis=2).sum() >= 31 * 31  # the frame takes a line
    assert pixels.shape[1] == 3 * 40 + 8


def test_floats_colours_large_and_flat_images_are_taken() -> None:
    images = [np.ones((300, 200, 3)), np.zeros((4, 4, 1), np.float32), np.full((5, 9, 3), 128, np.uint8)]
    sheet = contact_sheet(images, ["a", ["two", ("lines", "red")], "c"], columns=3, side=64, title="three")
    pixels = np.asarray(sheet)
    assert ((pixels[..., 0] > 180) & (pixels[..., 1] < 90)).any()  # the red line
    assert (pixels == 128).all(axis=2).sum() >= 62 * 34


def test_a_title_wider_than_the_sheet_goes_on_below() -> None:
    images = [np.full((8, 8), 200, np.uint8)] * 2
    short, long = (contact_sheet(images, [""] * 2, columns=2, side=64, title="word " * count) for count in (1, 12))
    assert short.width == long.width
    last = [np.flatnonzero((np.asarray(sheet) < 100).any(axis=(1, 2)))[-1] for sheet in (short, long)]
    assert last[1] - last[0] == long.height - short.height > 0  # all of the growth is lines of the title


def test_long_labels_are_cut_and_nothing_is_still_a_sheet(tmp_path: Path) -> None:
    one = contact_sheet([np.zeros((8, 8), np.uint8)], ["word"], side=64, columns=1)
    long = contact_sheet([np.zeros((8, 8), np.uint8)], ["supercalifragilistic " * 30], side=64, columns=1, label_lines=1)
    assert one.size == long.size
    save_contact_sheet(tmp_path / "new" / "empty.png", [], [], title="none")
    assert Image.open(tmp_path / "new" / "empty.png").width > 0
