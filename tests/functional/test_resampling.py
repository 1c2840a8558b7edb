"""Resampling against its definition: zeros between pixels, a filter, pixels left out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.functional import resampling
from genlib.functional.resampling import conv_downsampled, conv_upsampled, downsampled, low_pass, upsampled


def spread(x: Tensor) -> Tensor:
    """Zeros between pixels and behind the last."""
    rows, channels, high, wide = x.shape
    out = torch.zeros(rows, channels, 2 * high, 2 * wide, dtype=x.dtype)
    out[:, :, ::2, ::2] = x
    return out


def through(x: Tensor, kernel: Tensor, before: int, after: int) -> Tensor:
    """Each channel through the kernel, with so many zeros before and behind."""
    x = F.pad(x, (before, after, before, after))
    return torch.cat([F.conv2d(x[:, i : i + 1], kernel[None, None]) for i in range(x.shape[1])], 1)


@pytest.fixture
def kernel() -> Tensor:
    return low_pass().double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_filter_is_the_outer_product_of_its_taps() -> None:
    assert torch.allclose(low_pass() * 64, torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])))


def test_twice_the_size_is_zeros_between_pixels_then_the_filter(x: Tensor, kernel: Tensor) -> None:
    assert torch.allclose(upsampled(x, kernel), through(spread(x), 4 * kernel, 2, 1))


def test_half_the_size_is_the_filter_then_every_second_pixel(x: Tensor, kernel: Tensor) -> None:
    assert torch.allclose(downsampled(x, kernel), through(x, kernel, 1, 1)[:, :, ::2, ::2])


def test_a_constant_image_stays_one_away_from_its_edges(kernel: Tensor) -> None:
    image = torch.ones(1, 2, 8, 8, dtype=torch.float64)
    for found in (upsampled(image, kernel)[:, :, 2:-2, 2:-2], downsampled(image, kernel)[:, :, 1:-1, 1:-1]):
        assert torch.allclose(found, torch.ones_like(found))


def test_an_upsampling_convolution_is_a_true_one_of_spread_pixels_then_the_filter(x: Tensor, kernel: Tensor) -> None:
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    wide = F.conv2d(F.pad(spread(x), (2, 1, 2, 1)), weight.flip(2, 3))  # as a transposed convolution spreads each pixel
    assert torch.allclose(conv_upsampled(x, weight, kernel), through(wide, 4 * kernel, 1, 1))


def test_groups_are_as_many_upsampling_convolutions(x: Tensor, kernel: Tensor) -> None:
    weight = torch.randn(2, 5, 3, 3, 3, dtype=torch.float64)
    alone = torch.cat([conv_upsampled(x[i : i + 1], weight[i], kernel) for i in range(2)])
    grouped = conv_upsampled(x.reshape(1, 6, 8, 8), weight.flatten(0, 1), kernel, groups=2)
    assert torch.allclose(grouped.view(2, 5, 16, 16), alone)


@pytest.mark.parametrize("side", [1, 3])
def test_a_downsampling_convolution_is_the_filter_then_a_strided_one(x: Tensor, kernel: Tensor, side: int) -> None:
    weight, bias = torch.randn(5, 3, side, side, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    pad = side // 2 + 1
    expected = F.conv2d(through(x, kernel, pad, pad), weight, bias, stride=2)
    assert torch.allclose(conv_downsampled(x, weight, bias, kernel), expected)


@pytest.mark.parametrize("name", ["upsampled", "downsampled"])
def test_gradients_of_gradients_are_right(name: str, kernel: Tensor) -> None:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    function = getattr(resampling, name)
    assert torch.autograd.gradgradcheck(lambda x: function(x, kernel).square(), x)


def test_through_a_box_each_pixel_is_repeated_or_the_mean_of_four(x: Tensor) -> None:
    box = low_pass(resampling.BOX).double()
    assert torch.allclose(upsampled(x, box), F.interpolate(x, scale_factor=2, mode="nearest"))
    assert torch.allclose(downsampled(x, box), F.avg_pool2d(x, 2))


def test_with_a_box_a_convolution_is_one_of_repeated_pixels_or_its_means(x: Tensor) -> None:
    weight, box = torch.randn(5, 3, 3, 3, dtype=torch.float64), low_pass(resampling.BOX).double()
    wide = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight.flip(2, 3), padding=1)
    assert torch.allclose(conv_upsampled(x, weight, box), wide)
    bias = torch.randn(5, dtype=torch.float64)
    assert torch.allclose(conv_downsampled(x, weight, bias, box), F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2))
