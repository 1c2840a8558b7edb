"""DiffAugment against the ranges of its paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from genlib.functional.diff_augment import CHANGES, diff_augmented

MANY = torch.arange(3000)


def changed(image: Tensor, name: str) -> Tensor:
    return diff_augmented(image.expand(len(MANY), -1, -1, -1), MANY, [name], seed=0, stream="test")


def is_uniform(values: Tensor, low: float, high: float) -> bool:
    return bool(stats.kstest(values.double().numpy(), "uniform", (low, high - low)).pvalue > 1e-3)


def test_brightness_saturation_and_contrast_have_their_ranges() -> None:
    image = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
    found = changed(image, "color")
    assert is_uniform(found.mean((1, 2, 3)) - image.mean(), -0.5, 0.5)
    luma, new = image.mean(0), found.mean(1)
    contrast = (new - new.mean((1, 2), keepdim=True)).norm(dim=(1, 2)) / (luma - luma.mean()).norm()
    assert is_uniform(contrast, 0.5, 1.5)
    saturation = (found - new[:, None]).flatten(1).norm(dim=1) / (image - luma).norm() / contrast
    assert is_uniform(saturation, 0, 2)
    assert abs(np.corrcoef(contrast, saturation)[0, 1]) < 0.06


def test_a_picture_is_shifted_by_up_to_an_eighth_over_grey() -> None:
    image = torch.arange(1.0, 257.0).view(1, 16, 16)
    shifts = []
    for found in changed(image, "translation")[:, 0]:
        row, column = (int(x) for x in np.argwhere(found.numpy() == 120)[0])
        down, right = row - 7, column - 7
        shifts.append((down, right))
        wide = np.pad(image[0].numpy(), 2)[2 - down : 18 - down, 2 - right : 18 - right]
        assert np.array_equal(found.numpy(), wide)
    counts = np.array([sum(shift == (down, right) for shift in shifts) for down in range(-2, 3) for right in range(-2, 3)])
    assert counts.sum() == len(MANY)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("size", [8, 9])
def test_a_square_is_cut_out_around_any_pixel(size: int) -> None:
    hidden = changed(torch.ones(2, size, size), "cutout") == 0
    across, down = hidden[:, 0].any(1), hidden[:, 0].any(2)
    assert torch.equal(hidden, (across[:, None, :] & down[:, :, None])[:, None].expand(-1, 2, -1, -1))
    side, starts = int(size / 2 + 0.5), size + 1 - int(size / 2 + 0.5) % 2
    covering = [sum(centre - side // 2 <= pixel < centre - side // 2 + side for centre in range(starts)) for pixel in range(size)]
    for one in (across, down):
        assert (one.float().mean(0) - torch.tensor(covering) / starts).abs().max() < 0.05


def test_a_picture_depends_on_its_position_alone() -> None:
    images, position = torch.randn(6, 3, 16, 16), torch.tensor([3, 99, 5, 10**12, 0, 7])
    whole = diff_augmented(images, position, list(CHANGES), seed=2, stream="a")
    order = torch.tensor([4, 0, 2, 5, 1, 3])
    parts = [diff_augmented(images[part], position[part], list(CHANGES), seed=2, stream="a") for part in order.split([1, 3, 2])]
    torch.testing.assert_close(torch.cat(parts), whole[order])
    assert not torch.equal(diff_augmented(images, position, list(CHANGES), seed=2, stream="b"), whole)


def test_no_change_is_the_picture_and_an_unknown_one_is_refused() -> None:
    images = torch.randn(2, 1, 4, 4)
    assert torch.equal(diff_augmented(images, torch.arange(2), [], seed=0, stream="a"), images)
    with pytest.raises(ValueError, match=r"'colour' is no change of DiffAugment; there are color, translation, cutout"):
        diff_augmented(images, torch.arange(2), ["color", "colour"], seed=0, stream="a")


@pytest.mark.parametrize("name", CHANGES)
def test_derivatives_by_differences(name: str) -> None:
    images = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return diff_augmented(x, torch.arange(2), [name], seed=0, stream="a")

    assert torch.autograd.gradcheck(function, images)
    assert torch.autograd.gradgradcheck(lambda x: function(x).square(), images)


def test_it_compiles_as_one_graph() -> None:
    images, position = torch.randn(3, 3, 8, 8), torch.arange(3)
    compiled = torch.compile(lambda x: diff_augmented(x, position, list(CHANGES), seed=0, stream="a"), backend="eager", fullgraph=True)
    assert torch.equal(compiled(images), diff_augmented(images, position, list(CHANGES), seed=0, stream="a"))
