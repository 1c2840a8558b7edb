"""Affine maps of pictures against NumPy's flips and SciPy's splines, and their first and second derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from genlib.functional.warp import moved_by_pixels, resampled


def smooth(count: int = 2, height: int = 24, width: int = 32, channels: int = 3) -> Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.randn(count, channels, height // 4, width // 4), (height, width), mode="bicubic")


def place(matrix: list[list[float]], x: float = 0.0, y: float = 0.0, count: int = 2) -> Tensor:
    (a, b), (c, d) = matrix
    return torch.tensor([[a, b, x], [c, d, y], [0, 0, 1]]).repeat(count, 1, 1)


def turned(angle: float, x: float = 1.0, y: float = 1.0) -> list[list[float]]:
    return [[x * math.cos(angle), -y * math.sin(angle)], [x * math.sin(angle), y * math.cos(angle)]]


def splines(images: Tensor, place: Tensor) -> Tensor:
    """SciPy's reading of the same map, by quintic splines with mirrored edges."""
    found = []
    for picture, ((a, b, x), (c, d, y), _) in zip(images.double().numpy(), place.double().numpy(), strict=True):
        matrix, middle = np.array([[d, c], [b, a]]), (np.array(picture.shape[1:]) - 1) / 2  # rows first
        start = middle - matrix @ middle + np.array([y, x])
        found.append([ndimage.affine_transform(plane, matrix, start, order=5, mode="mirror") for plane in picture])
    return torch.from_numpy(np.array(found)).float()


MAPS = {
    "identity": place(turned(0)),
    "half a pixel": place(turned(0), 0.5, -0.25),
    "far": place(turned(0), -7.3, 4.9),
    "smaller": place(turned(0, 1.3, 1.3)),
    "larger": place(turned(0, 0.6, 0.6)),
    "mirrored": place([[-1, 0], [0, 1]]),
    "turned": place(turned(0.4)),
    "all": place(turned(2.1, 0.8, 1.2), 3.3, -1.2),
}


@pytest.mark.parametrize("name", MAPS)
def test_smooth_pictures_are_where_scipy_puts_them(name: str) -> None:
    images = smooth()
    error = resampled(images, MAPS[name]) - splines(images, MAPS[name])
    assert error.square().mean().sqrt() < 0.02 * images.std()
    assert error[:, :, 4:-4, 4:-4].abs().max() < 0.1 * images.std()


def test_the_identity_gives_any_picture_back() -> None:
    images = torch.randn(2, 3, 9, 16)
    torch.testing.assert_close(resampled(images, MAPS["identity"]), images, atol=1e-5, rtol=1e-5)
    assert torch.equal(moved_by_pixels(images, MAPS["identity"]), images)


def test_a_plain_picture_stays_plain() -> None:
    for name in MAPS:
        torch.testing.assert_close(resampled(torch.full((2, 1, 24, 32), 0.7), MAPS[name]), torch.full((2, 1, 24, 32), 0.7))


def test_what_becomes_too_fine_to_show_is_left_out() -> None:
    """Waves of 2.5 pixels in a picture made half as large, which would come out as waves of 5 pixels."""
    waves = torch.cos(2 * math.pi * 0.4 * torch.arange(64)).expand(1, 1, 64, 64)
    shrunk = resampled(waves, place(turned(0, 2.0, 2.0), count=1))
    plain = waves[..., ::2, ::2]
    assert plain.std() > 0.6
    assert shrunk.std() < 0.1 * plain.std()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [8, 9])
def test_flips_and_quarter_turns_are_exact(turns: int, size: int) -> None:
    images = torch.randn(2, 3, size, size)
    angle = turns * math.pi / 2
    assert torch.equal(moved_by_pixels(images, place(turned(angle))), torch.rot90(images, turns, (2, 3)))
    assert torch.equal(moved_by_pixels(images, place([[-1, 0], [0, 1]])), images.flip(3))


def test_shifts_by_pixels_are_exact_and_mirrored() -> None:
    images = torch.randn(1, 2, 8, 10)
    found = moved_by_pixels(images, place(turned(0), -3, 2, count=1))
    wide = np.pad(images[0].numpy(), ((0, 0), (0, 2), (3, 0)), mode="reflect")
    assert torch.equal(found[0], torch.from_numpy(wide[:, 2:, :10]))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_pictures_smaller_than_the_filter_are_mirrored_again_and_again(size: int) -> None:
    images = torch.randn(2, 1, size, size)
    torch.testing.assert_close(resampled(images, MAPS["identity"]), images, atol=1e-5, rtol=1e-5)
    assert resampled(images, MAPS["all"]).isfinite().all()


@pytest.mark.parametrize("function", [resampled, moved_by_pixels])
def test_derivatives_by_differences(function) -> None:
    images = torch.randn(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    map_ = MAPS["all"] if function is resampled else place([[-1, 0], [0, 1]], 1, -2)
    assert torch.autograd.gradcheck(lambda x: function(x, map_), images)
    assert torch.autograd.gradgradcheck(lambda x: function(x, map_).sin(), images)
