"""Augmentation is keyed by position, moves what it says, and leaves all alone by default."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from genlib.data.transforms.augment import CaptionAugmentation, ImageAugmentation, Views, augment, augment_captions, dilate, hide, outline, thicken
from genlib.types import Samples

POSITION = torch.arange(100, 164)
IMAGES = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
ALL = ImageAugmentation(min_scale=0.7, max_scale=1.2, stretch=0.1, degrees=15, shift=0.1, thickness=0.5, outline=0.3, hide=0.3, invert=0.3)


def test_default_is_no_change() -> None:
    torch.testing.assert_close(augment(IMAGES, POSITION, ImageAugmentation(), size=16, seed=0), IMAGES)
    halved = augment(IMAGES, POSITION, ImageAugmentation(), size=8, seed=0)
    torch.testing.assert_close(halved, F.avg_pool2d(IMAGES, 2))
    as_bytes = (IMAGES * 255).round().to(torch.uint8)
    torch.testing.assert_close(augment(as_bytes, POSITION, ImageAugmentation(), size=16, seed=0), as_bytes / 255)


def test_a_sample_is_changed_by_its_position_alone() -> None:
    whole = augment(IMAGES, POSITION, ALL, size=16, seed=3)
    rows = torch.tensor([5, 60, 17])
    assert torch.equal(augment(IMAGES[rows], POSITION[rows], ALL, size=16, seed=3), whole[rows])
    assert not torch.equal(augment(IMAGES, POSITION, ALL, size=16, seed=4), whole)
    assert whole.shape == IMAGES.shape
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_strokes() -> None:
    torch.testing.assert_close(dilate(IMAGES), F.max_pool2d(IMAGES, 3, 1, 1))
    amount = torch.cat([torch.ones(32), -torch.ones(32)])
    found = thicken(IMAGES, amount)
    torch.testing.assert_close(found[:32], F.max_pool2d(IMAGES[:32], 3, 1, 1))
    torch.testing.assert_close(found[32:], -F.max_pool2d(-IMAGES[32:], 3, 1, 1))
    filled = torch.zeros(1, 1, 16, 16)
    filled[..., 4:12, 4:12] = 1
    edges = outline(filled, torch.tensor([True]))
    assert edges.sum() == 8 * 8 - 6 * 6


def test_hidden_square() -> None:
    found = hide(torch.ones(2, 1, 10, 10), torch.tensor([True, False]), torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]), 0.4)
    assert (found[0] == 0).sum() == 16
    assert found[1].all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_scale", 0.5),
        ("degrees", 20.0),
        ("shift", 0.3),
        ("thickness", 0.9),
        ("outline", 1.0),
        ("hide", 1.0),
        ("invert", 1.0),
        ("flip", 1.0),
        ("color", 0.5),
    ],
)
def test_each_field_does_something(field: str, value: float) -> None:
    assert not torch.allclose(augment(IMAGES, POSITION, ImageAugmentation(**{field: value}), size=16, seed=0), IMAGES, atol=1e-3)


def test_mirrored_from_left_to_right() -> None:
    torch.testing.assert_close(augment(IMAGES, POSITION, ImageAugmentation(flip=1), size=16, seed=0), IMAGES.flip(3))
    some = augment(IMAGES, POSITION, ImageAugmentation(flip=0.5), size=16, seed=0)
    same = (some - IMAGES).abs().amax((1, 2, 3)) < 1e-3
    assert 16 < same.sum() < 48
    torch.testing.assert_close(some[~same], IMAGES[~same].flip(3))


def test_recolored() -> None:
    color = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.1
    found = augment(color, POSITION, ImageAugmentation(color=0.5), size=16, seed=0)
    gain = (found / color).mean((2, 3))
    torch.testing.assert_close(found, color * gain[:, :, None, None])  # each channel by a factor of its own
    assert gain.min() >= 0.5 - 1e-4
    assert gain.max() <= 1.5 + 1e-4
    assert gain.std(0).min() > 0.2
    grey = augment(color, POSITION, ImageAugmentation(grey=1), size=16, seed=0)
    torch.testing.assert_close(grey, color.mean(1, keepdim=True).expand(-1, 3, -1, -1))


def test_captions_lose_words_by_position() -> None:
    captions = ["light bulb outline", "arrow up", "home"] * 20
    position = torch.arange(60)
    config = CaptionAugmentation(drop_words=0.3, last_words=("outline", "light"), drop_last=0.5)
    found = augment_captions(captions, position, config, seed=0)
    assert augment_captions(captions[::-1], position.flip(0), config, seed=0) == found[::-1]
    assert all(set(new.split()) <= set(old.split()) and new for new, old in zip(found, captions, strict=True))
    assert {len(text.split()) for text in found[::3]} == {1, 2, 3}
    assert augment_captions(captions, position, CaptionAugmentation(), seed=0) == captions


def test_words_are_shuffled() -> None:
    found = augment_captions(["a b c d e"] * 40, torch.arange(40), CaptionAugmentation(shuffle=0.5), seed=0)
    assert all(sorted(text.split()) == list("abcde") for text in found)
    assert 10 < sum(text == "a b c d e" for text in found) < 30
    assert len(set(found)) > 10


def test_last_words_go_only_where_they_stand_last() -> None:
    config = CaptionAugmentation(last_words=("light", "outline"), drop_last=1.0)
    assert augment_captions(["light bulb", "bulb light", "light", "home outline"], torch.arange(4), config, seed=0) == [
        "light bulb",
        "bulb",
        "light",
        "home",
    ]


def test_views_differ_from_each_other_and_belong_to_their_sample() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 24, 3), np.uint8) for _ in range(3)]
    make = Views(ImageAugmentation(min_scale=0.5, degrees=30), size=16)
    samples = Samples(
        position=np.array([7, 8, 7]), keys=["a", "b", "a"], fields={"image": [*images[:2], images[0]], "label": [1, 2, 1]}, failed=np.zeros(3)
    )
    batch = make(samples)
    assert batch["image"].shape == (3, 2, 3, 16, 16)
    assert batch["label"].tolist() == [1, 2, 1]
    assert torch.equal(batch["image"][0], batch["image"][2])  # a function of the sample and its position, not of the row
    assert (batch["image"][0, 0] - batch["image"][0, 1]).abs().mean() > 0.01
