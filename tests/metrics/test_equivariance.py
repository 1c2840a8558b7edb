"""Equivariance of generators whose images are known in closed form, and the motions it is measured by."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from genlib.distributed import all_gather_object, rank
from genlib.metrics import equivariance as eq
from tests.processes import run_ranks

SIDE = 48


def scene(transform: Tensor, seed: int = 0, side: int = SIDE, finest: float = 0.15) -> Tensor:
    """Waves of up to `finest` cycles a pixel, (1, 2, side, side), seen through a transform: what an ideal generator makes."""
    draw = torch.Generator().manual_seed(seed)
    radius, angle = finest * side * torch.rand(2, 12, generator=draw).sqrt(), 2 * math.pi * torch.rand(2, 12, generator=draw)
    phase = 2 * math.pi * torch.rand(2, 12, generator=draw)
    place = (torch.arange(side) + 0.5) / side - 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    x, y, _ = (transform @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)).view(3, side, side)
    waves = 2 * math.pi * radius[:, :, None, None] * (angle.cos()[:, :, None, None] * x + angle.sin()[:, :, None, None] * y)
    return (waves + phase[:, :, None, None]).sin().mean(1)[None]


def test_an_ideal_generator_scores_high() -> None:
    found = eq.equivariance(lambda number, transform: scene(transform, number), 3)
    assert found.keys() == {"eq_t", "eq_t_frac", "eq_r"}
    assert found["eq_t"] > 90, "nothing but rounding"
    assert found["eq_t_frac"] > 55
    assert found["eq_r"] > 55


def test_an_image_that_sticks_scores_its_own_variance() -> None:
    """Of white noise that does not move, the error is twice the variance."""
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 2
    found = eq.equivariance(lambda number, transform: noise, 2, seed=3)
    assert found["eq_t"] == pytest.approx(10 * math.log10(4 / (2 * 0.25)), abs=0.2)


def test_what_sticks_lowers_the_score_by_its_power() -> None:
    noise = 1e-2 * torch.randn(1, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = eq.equivariance(lambda number, transform: scene(transform) + noise, 3)
    assert found["eq_t"] == pytest.approx(10 * math.log10(4 / (2 * 1e-4)), abs=0.5)
    assert 40 < found["eq_t_frac"] < found["eq_t"] + 1
    assert 40 < found["eq_r"] < found["eq_t"] + 3


def test_a_generator_that_turns_the_other_way_is_seen() -> None:
    found = eq.equivariance(lambda number, transform: scene(transform.inverse()), 2)
    assert max(found.values()) < 25


def test_only_what_is_asked_for_is_measured() -> None:
    seen = []

    def generate(number: int, transform: Tensor) -> Tensor:
        seen.append(transform)
        return scene(transform)

    assert eq.equivariance(generate, 1, turns=False).keys() == {"eq_t", "eq_t_frac"}
    assert len(seen) == 3
    assert eq.equivariance(generate, 1, shifts=False).keys() == {"eq_r"}


def test_shifts_are_of_up_to_an_eighth_and_turns_of_up_to_half_a_circle() -> None:
    draw = torch.Generator().manual_seed(0)
    motions = [motion for _ in range(400) for motion in eq._motions(draw, 64, True, True)]
    whole = [motion[1] for motion in motions if motion[0] == "eq_t"]
    assert set(whole) == set(range(-8, 9))
    between = np.array([motion[2] for motion in motions if motion[0] == "eq_t_frac"])
    assert -8 < between.min() < -7.8 < 7.8 < between.max() < 8
    angles = np.array([motion[3] for motion in motions if motion[0] == "eq_r"])
    assert -math.pi < angles.min() < -3 < 3 < angles.max() < math.pi


@pytest.mark.parametrize(("right", "down"), [(3.0, -2.0), (0.0, 0.0), (2.25, -4.6), (-0.5, 0.0)])
def test_shifted_images_are_shifted_waves(right: float, down: float) -> None:
    found, known = eq.shifted(scene(torch.eye(3)), right, down)
    expected = scene(eq.shift_transform(right / SIDE, down / SIDE))
    assert ((found - expected) * known).abs().max() < (1e-5 if right == round(right) and down == round(down) else 0.02)
    for axis, shift in ((0, right), (1, down)):
        low, high = (0, 0) if shift == round(shift) else (2, 3)  # pixels that Lanczos's window reaches before and behind
        expected_count = SIDE + min(math.floor(shift) - low, 0) - max(math.floor(shift) + high, 0)
        assert known.amax(axis).sum() == expected_count


def test_a_shift_by_whole_pixels_is_exact_and_knows_what_it_lost() -> None:
    images = torch.randn(2, 3, 6, 7)
    found, known = eq.shifted(images, 2, -1)
    assert torch.equal(found[:, :, :5, 2:], images[:, :, 1:, :5])
    assert known.sum() == 25
    assert known[:5, 2:].all()


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, -2.2, 3.1])
def test_turned_images_are_turned_waves(angle: float) -> None:
    found, known = eq.turned(scene(torch.eye(3)), angle)
    expected = scene(eq.turn_transform(angle))
    error = ((found - expected).square() * known).sum() / (2 * known.sum())
    assert known.sum() > SIDE**2 / 3
    assert 10 * math.log10(4 / error) > 55
    back, known = eq.turned_back(expected, angle)
    assert ((back - expected).square() * known).sum() / (2 * known.sum()) < 4 * 10**-5.5
    assert known.sum() == (SIDE - 10) ** 2


def test_both_sides_of_a_turn_lose_the_same_frequencies() -> None:
    """Waves at the corner of what pixels can show, which a turn by an eighth of a circle cannot keep."""
    images = torch.cos(math.pi * 0.95 * (torch.arange(SIDE)[:, None] + torch.arange(SIDE))).expand(1, 1, -1, -1)
    for operator, angle in ((eq.turned, math.pi / 4), (eq.turned_back, math.pi / 4)):
        found, known = operator(images, angle)
        assert (found * known).square().sum() / known.sum() < 0.02 * images.square().mean()


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.5, 2.9, -0.7])
def test_the_ideal_filter_is_the_transform_of_both_squares(angle: float) -> None:
    f = (torch.arange(800, dtype=torch.float64) + 0.5) / 800 - 0.5
    down, across = torch.meshgrid(f, f, indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    both = ((cos * across + sin * down).abs() < 0.5) & ((cos * down - sin * across).abs() < 0.5)
    for x, y in ((0.0, 0.0), (1.3, -0.2), (0.0, 2.0), (3.1, 4.0), (-2.5, 1.0)):
        expected = (torch.cos(2 * math.pi * (across * x + down * y)) * both).mean()
        found = eq._Band(angle)(*torch.tensor([x, y], dtype=torch.float64))
        assert found.item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("size", [4, 5])
def test_a_map_goes_on_periodically(size: int) -> None:
    values = torch.randn(3, size, size)
    torch.testing.assert_close(eq.shifted_map(values, torch.eye(3)), values, atol=1e-6, rtol=1e-5)
    moved = eq.shifted_map(values, eq.shift_transform(1 / size, -2 / size))
    torch.testing.assert_close(moved, values.roll((-2, 1), (1, 2)), atol=1e-5, rtol=1e-5)
    place = torch.arange(size) / size
    wave = torch.cos(2 * math.pi * place).expand(1, size, -1)
    expected = torch.cos(2 * math.pi * (place - 0.3 / size)).expand(1, size, -1)
    torch.testing.assert_close(eq.shifted_map(wave, eq.shift_transform(0.3 / size, 0)), expected, atol=1e-5, rtol=1e-5)


def test_images_too_small_for_a_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="no pixel is known both before and after a motion"):
        eq.equivariance(lambda number, transform: scene(transform, side=8), 1, shifts=False)


def on_ranks() -> None:
    """The first rank's images move, the second's stick."""
    mine = eq.equivariance(lambda number, transform: scene(transform if rank() == 0 else torch.eye(3)), 1)
    assert all_gather_object(mine) == [mine, mine]
    stuck = -10 * math.log10(10 ** (-eq.equivariance(lambda number, transform: scene(torch.eye(3)), 1)["eq_t"] / 10) / 2)
    assert mine["eq_t"] == pytest.approx(stuck, abs=0.1), "half of the error of images that stick"


def test_ranks_add_up() -> None:
    run_ranks(2, on_ranks)
