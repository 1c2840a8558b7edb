"""The sliced distance against what is known of it, and the checkerboard of transposed convolutions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from genlib.metrics.checkerboard import checkerboard
from genlib.metrics.sliced_wasserstein import directions, drawn_patches, patch_distance, pyramid, sliced_wasserstein


def test_nothing_is_moved_between_equal_sets_in_any_order() -> None:
    x = torch.randn(50, 7)
    assert sliced_wasserstein(x, x[torch.randperm(50)]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("sizes", [(40, 40), (40, 64), (30, 7)])
def test_on_a_line_it_is_the_earth_movers_distance(sizes: tuple[int, int]) -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(size, 1) * scale for size, scale in zip(sizes, (1, 2), strict=True))
    expected = wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())
    assert sliced_wasserstein(a, b).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_shift_costs_its_length_times_the_mean_cosine(dimensions: int) -> None:
    """E|cos| of a random direction is 2 / pi in the plane and 1 / 2 in space."""
    torch.manual_seed(0)
    x, shift = torch.randn(200, dimensions), 3 * torch.nn.functional.normalize(torch.randn(dimensions), dim=0)
    expected = 3 * {2: 2 / math.pi, 3: 0.5}[dimensions]
    assert sliced_wasserstein(x, x + shift, lines=4000).item() == pytest.approx(expected, rel=0.03)


def test_it_is_a_distance_of_sets() -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(30, 4), torch.randn(45, 4) + 1, torch.randn(20, 4) * 3
    there, back, around = sliced_wasserstein(a, b), sliced_wasserstein(b, a), sliced_wasserstein(a, c) + sliced_wasserstein(c, b)
    torch.testing.assert_close(there, back)
    assert 0 < there < around
    torch.testing.assert_close(sliced_wasserstein(5 * a, 5 * b), 5 * there)
    torch.testing.assert_close(sliced_wasserstein(a.repeat(2, 1), b), there)


def test_lines_are_unit_vectors_that_follow_from_the_seed() -> None:
    axes = directions(6, 10, seed=4)
    torch.testing.assert_close(axes.norm(dim=0), torch.ones(10))
    assert torch.equal(axes, directions(6, 10, seed=4))
    assert not torch.equal(axes, directions(6, 10, seed=5))


def pictures(count: int = 64, channels: int = 2, side: int = 28, seed: int = 0) -> torch.Tensor:
    """Smooth ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.interpolate(torch.rand(count, channels, 5, 5, generator=generator), (side, side), mode="bicubic")


def test_the_pyramid_gives_the_picture_back() -> None:
    image = pictures()
    levels = pyramid(image)
    assert [level.shape[-1] for level in levels] == [28, 14, 7]
    back = levels[-1]
    for level in reversed(levels[:-1]):
        back = level + torch.nn.functional.interpolate(back, level.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(back, image)


def test_patches_are_cut_from_their_pictures() -> None:
    image = torch.arange(3.0)[:, None, None, None] * 1000 + torch.arange(20.0)[:, None] * 20 + torch.arange(20.0)
    patches = drawn_patches(image, 5, seed=1)
    assert patches.shape == (15, 1, 7, 7)
    assert torch.equal((patches // 1000).amax((1, 2, 3)), torch.arange(3.0).repeat_interleave(5))
    torch.testing.assert_close(patches - patches[:, :, :1, :1], (torch.arange(7.0)[:, None] * 20 + torch.arange(7.0)).expand(15, 1, 7, 7))


def test_patches_tell_blur_and_layout_from_the_real_thing() -> None:
    real, same = pictures(seed=0), pictures(seed=1)
    blurred = torch.nn.functional.avg_pool2d(same, 3, 1, 1)
    alike, blur, noisy = (patch_distance(real, other).item() for other in (same, blurred, same + 0.2 * torch.randn_like(same)))
    assert alike < 0.8 * blur
    assert alike < 0.8 * noisy


def test_pictures_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="pictures of 6 x 6 pixels hold no patch of 7; compare larger ones"):
        patch_distance(torch.rand(4, 1, 6, 6), torch.rand(4, 1, 6, 6))


def test_checkerboard_of_an_even_and_of_an_uneven_picture() -> None:
    even = torch.randn(64, 3, 16, 16)
    uneven = even * (1 + 2 * (torch.arange(16) % 2))
    assert checkerboard(even) < 0.1
    assert checkerboard(uneven).item() == pytest.approx(0.8, abs=0.05)  # mean squares 1 and 9: deviation 4, mean 5
    with pytest.raises(ValueError, match="pictures of 5 x 5 pixels are too small for a pattern of 2"):
        checkerboard(torch.rand(2, 1, 5, 5))
