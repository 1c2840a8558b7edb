"""Each change of a picture against the closed form of its distribution, and what holds for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import fft, stats
from torch import Tensor, nn

from genlib.config import replaced, to_json
from genlib.functional import adaptive_augment as ada
from genlib.functional.adaptive_augment import PRESETS, DiscriminatorAugmentation, augmented

MANY = torch.arange(4000)


def pictures(count: int = 6, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def only(name: str) -> DiscriminatorAugmentation:
    return replaced(DiscriminatorAugmentation(), name, 1.0)


def changed(images: Tensor, name: str, strength: float = 1.0, position: Tensor = MANY) -> Tensor:
    """The picture (C, H, W) changed at each position."""
    return augmented(images.expand(len(position), -1, -1, -1), position, strength, only(name), seed=5, stream="test")


def draws(strength: float = 1.0) -> ada._Draws:
    return ada._Draws(MANY, strength, 5, "test")


def is_normal(values: Tensor, deviation: float) -> bool:
    return bool(stats.kstest((values.double() / deviation).numpy(), "norm").pvalue > 1e-3)


def is_uniform(values: Tensor, low: float, high: float) -> bool:
    return bool(stats.kstest(values.double().numpy(), "uniform", (low, high - low)).pvalue > 1e-3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", PRESETS)
def test_at_strength_0_pictures_stay_bit_for_bit(preset: str, channels: int) -> None:
    for size in (4, 16, 31):
        images = pictures(channels=channels, size=size)
        assert torch.equal(augmented(images, torch.arange(6), torch.zeros(()), PRESETS[preset], seed=0, stream="a"), images)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_picture_depends_on_its_position_alone(preset: str) -> None:
    images, position, strength = pictures(), torch.tensor([3, 99, 5, 10**12, 0, 7]), torch.tensor(0.7)
    whole = augmented(images, position, strength, PRESETS[preset], seed=2, stream="a")
    assert not torch.equal(whole, images)
    order = torch.tensor([4, 0, 2, 5, 1, 3])
    parts = [augmented(images[part], position[part], strength, PRESETS[preset], seed=2, stream="a") for part in order.split([1, 3, 2])]
    torch.testing.assert_close(torch.cat(parts), whole[order], atol=1e-6, rtol=1e-6)
    for seed, stream in ((3, "a"), (2, "b")):
        assert not torch.equal(augmented(images, position, strength, PRESETS[preset], seed=seed, stream=stream), whole)


def test_pictures_need_not_be_square() -> None:
    images, position = torch.randn(200, 3, 12, 20), torch.arange(200)
    whole = augmented(images, position, 1.0, PRESETS["bgcfnc"], seed=0, stream="a")
    assert whole.shape == images.shape
    assert whole.isfinite().all()
    ramp = torch.arange(20.0).expand(len(MANY), 1, 12, 20)
    middle = augmented(ramp, MANY, 1.0, only("pixel_shift"), seed=0, stream="a")[:, 0, 6, 10] - 10
    assert middle.abs().max() == 2, "an eighth of the width, 2.5, rounded to even"


def test_presets_are_the_papers_groups() -> None:
    used = {name: {change for change, share in to_json(preset).items() if share == 1} for name, preset in PRESETS.items()}
    assert [len(used[name]) for name in ("blit", "geom", "color", "filter", "noise", "cutout")] == [3, 4, 5, 1, 1, 1]
    groups = ("blit", "geom", "color", "filter", "noise", "cutout")
    for letters in range(2, 7):
        assert used["bgcfnc"[:letters]] == set().union(*(used[name] for name in groups[:letters]))
    assert used["bgcfnc"] == set(to_json(DiscriminatorAugmentation()))


@pytest.mark.parametrize("strength", [0.1, 0.6])
@pytest.mark.parametrize("name", ["pixel_shift", "scale", "stretch", "shift", "rotation", "brightness", "contrast", "hue", "saturation", "cutout"])
def test_a_change_is_made_as_often_as_the_strength_says(name: str, strength: float) -> None:
    image, position = 1 + pictures(1, size=12)[0].abs(), MANY[:2000]
    share = (changed(image, name, strength, position) != image).flatten(1).any(1).float().mean().item()
    stays = (1 / 3) ** 2 if name == "pixel_shift" else 0  # by uniform numbers in (-1.5, 1.5), rounded
    assert share == pytest.approx(strength * (1 - stays), abs=4 * math.sqrt(strength / 2000))


def test_a_share_below_1_multiplies_the_strength() -> None:
    config = DiscriminatorAugmentation(brightness=0.5)
    images = torch.zeros(len(MANY), 1, 2, 2)
    share = (augmented(images, MANY, 0.6, config, seed=0, stream="a") != 0).flatten(1).any(1).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.03)


def test_half_are_flipped_and_turns_are_equally_likely() -> None:
    image = pictures(1, size=8)[0]
    flipped = changed(image, "flip")
    of_flips = [(flipped == one).flatten(1).all(1).float().mean().item() for one in (image, image.flip(2))]
    assert of_flips == [pytest.approx(0.5, abs=0.03)] * 2
    turned = changed(image, "quarter_turn")
    shares = [(turned == torch.rot90(image, turns, (1, 2))).flatten(1).all(1).float().mean().item() for turns in range(4)]
    assert shares == [pytest.approx(0.25, abs=0.03)] * 4


def test_shifts_by_pixels_are_rounded_from_an_eighth_to_both_sides() -> None:
    image = torch.arange(32.0).expand(1, 32, 32)
    middle = changed(image, "pixel_shift")[:, 0, 16, 16]  # the column that comes there
    counts = (middle.long() - 16 + 4).bincount(minlength=9) / len(MANY)
    expected = torch.tensor([1 / 16, *[1 / 8] * 7, 1 / 16])
    assert (counts - expected).abs().max() < 0.02


def test_maps_of_place_have_their_distributions() -> None:
    sides = torch.tensor([32.0, 16.0])
    place, _ = ada.geometric_map(only("scale"), draws(), sides)
    assert is_normal(torch.log2(1 / place[:, 0, 0]), 0.2)
    assert torch.equal(place[:, 0, 0], place[:, 1, 1])
    place, _ = ada.geometric_map(only("stretch"), draws(), sides)
    assert is_normal(torch.log2(1 / place[:, 0, 0]), 0.2)
    torch.testing.assert_close(place[:, 0, 0] * place[:, 1, 1], torch.ones(len(MANY)))
    place, _ = ada.geometric_map(only("shift"), draws(), sides)
    assert is_normal(place[:, 0, 2] / 32, 0.125)
    assert is_normal(place[:, 1, 2] / 16, 0.125)
    place, made = ada.geometric_map(only("rotation"), draws(), sides)
    assert is_uniform(torch.atan2(place[:, 1, 0], place[:, 0, 0]), -math.pi, math.pi)
    assert made.all()
    torch.testing.assert_close(place[:, :2, :2].det(), torch.ones(len(MANY)))


def test_a_turn_is_before_the_stretch_or_after_it_with_one_probability_together() -> None:
    place, made = ada.geometric_map(only("rotation"), draws(0.36), torch.ones(2))
    assert made.float().mean().item() == pytest.approx(0.36, abs=0.03)
    both = DiscriminatorAugmentation(rotation=1.0, stretch=1.0)
    place, _ = ada.geometric_map(both, draws(0.75), torch.ones(2))
    before, after = (place[:, 0] * place[:, 1]).sum(1).abs() > 1e-4, (place[:, :, 0] * place[:, :, 1]).sum(1).abs() > 1e-4
    # R(a) S R(b): its rows are at right angles where a is 0, its columns where b is; each with probability 1 - sqrt(1 - 0.75) where S is drawn
    assert before.float().mean().item() == pytest.approx(0.375, abs=0.03)
    assert after.float().mean().item() == pytest.approx(0.375, abs=0.03)
    assert (before & after).float().mean().item() == pytest.approx(0.1875, abs=0.03)


def split_colours(images: Tensor) -> tuple[Tensor, Tensor]:
    """Luma (B,) and chroma (B, 3) of the first pixel."""
    pixel = images[:, :, 0, 0]
    return pixel.mean(1), pixel - pixel.mean(1, keepdim=True)


def test_colours_have_their_distributions() -> None:
    image = torch.tensor([0.5, -0.1, 0.35])[:, None, None].expand(3, 2, 2)
    luma, chroma = (part[0] for part in split_colours(image[None]))
    new_luma, new_chroma = split_colours(changed(image, "brightness"))
    assert is_normal(new_luma - luma, 0.2)
    torch.testing.assert_close(new_chroma, chroma.expand_as(new_chroma))
    new_luma, new_chroma = split_colours(changed(image, "contrast"))
    assert is_normal(torch.log2(new_luma / luma), 0.5)
    torch.testing.assert_close(new_chroma, chroma * (new_luma / luma)[:, None])
    new_luma, new_chroma = split_colours(changed(image, "luma_flip"))
    assert (new_luma < 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(new_luma.abs(), luma.expand_as(new_luma))
    torch.testing.assert_close(new_chroma, chroma.expand_as(new_chroma))
    new_luma, new_chroma = split_colours(changed(image, "hue"))
    torch.testing.assert_close(new_luma, luma.expand_as(new_luma))
    torch.testing.assert_close(new_chroma.norm(dim=1), chroma.norm().expand(len(MANY)))
    across = torch.linalg.cross(torch.ones(3) / 3**0.5, chroma)
    assert is_uniform(torch.atan2(new_chroma @ across, new_chroma @ chroma), -math.pi, math.pi)
    new_luma, new_chroma = split_colours(changed(image, "saturation"))
    torch.testing.assert_close(new_luma, luma.expand_as(new_luma))
    assert is_normal(torch.log2(new_chroma.norm(dim=1) / chroma.norm()), 1.0)
    torch.testing.assert_close(torch.nn.functional.normalize(new_chroma, dim=1), torch.nn.functional.normalize(chroma, dim=0).expand(len(MANY), 3))


def test_colours_are_changed_in_the_papers_order() -> None:
    """Brightness, contrast, luma flip: x -> -c (x + b) along the grey axis."""
    config = DiscriminatorAugmentation(brightness=1.0, contrast=1.0, luma_flip=1.0)
    found = augmented(torch.full((4000, 1, 1, 1), 0.25), MANY, 1.0, config, seed=5, stream="test")[:, 0, 0, 0]
    bright, contrast, flip = (changed(torch.full((1, 1, 1), 0.25), name)[:, 0, 0, 0] for name in ("brightness", "contrast", "luma_flip"))
    torch.testing.assert_close(found, bright * (contrast / 0.25) * flip.sign(), atol=1e-6, rtol=1e-5)


def test_a_grey_picture_is_the_luma_of_a_coloured_one() -> None:
    grey, position = pictures(channels=1), torch.arange(6)
    as_colour = augmented(grey.expand(-1, 3, -1, -1), position, 0.8, PRESETS["bgc"], seed=0, stream="a")
    torch.testing.assert_close(
        augmented(grey, position, 0.8, PRESETS["bgc"], seed=0, stream="a").expand_as(as_colour), as_colour, atol=1e-5, rtol=1e-5
    )


def test_bands_are_octaves_that_add_up_to_the_picture() -> None:
    bands = ada.band_filters()
    assert bands.shape == (4, 43)
    identity = torch.zeros(43)
    identity[21] = 1
    torch.testing.assert_close(bands.sum(0), identity, atol=1e-6, rtol=0)
    torch.testing.assert_close(bands, bands.flip(1))
    response = torch.fft.rfft(bands.double(), 512).abs()  # at 0 to 1/2 cycles a pixel
    for band, (low, high) in enumerate(((0, 1 / 16), (1 / 16, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2))):
        middle = response[:, round((low + high) / 2 * 512)]
        assert middle.argmax() == band
        assert middle[band] > 0.5
    assert response[0, 0].item() == pytest.approx(1, abs=1e-6)


def test_gains_keep_the_power_of_a_natural_picture() -> None:
    power, config = torch.tensor([10, 1, 1, 1]) / 13, only("bands")
    gains = ada.band_gains(config, draws(1e-2))
    assert (gains == 1).all(1).float().mean().item() == pytest.approx(0.99**4, abs=0.01)
    single = gains[(gains != 1).any(1)]
    assert ((single.square() @ power) - 1).abs().median() < 1e-6
    # of one band alone: t / sqrt(1 - p + p t^2) of which t is found again by the quotient with any other band
    gains = ada.band_gains(config, draws(1.0))
    logs = torch.log2(gains)
    differences = [logs[:, band] - logs[:, 0] for band in (1, 2, 3)]
    assert all(is_normal(difference, 2**0.5) for difference in differences)


@pytest.mark.parametrize("size", [12, 40])
def test_bands_are_amplified_as_cosine_waves_between_mirrors(size: int) -> None:
    """A symmetric filter with mirrored edges multiplies each term of the type 1 cosine transform."""
    image, position = pictures(1, size=size)[0], MANY[:5]
    gains, bands = ada.band_gains(only("bands"), ada._Draws(position, 1.0, 5, "test")), ada.band_filters()
    found = changed(image, "bands", position=position)
    frequency = np.arange(size) / (2 * (size - 1))
    waves = np.cos(2 * np.pi * frequency[:, None] * (np.arange(43) - 21))
    for picture, gain in zip(found, gains, strict=True):
        response = waves @ (gain @ bands).double().numpy()
        expected = fft.idctn(fft.dctn(image.double().numpy(), 1, axes=(1, 2)) * response[:, None] * response, 1, axes=(1, 2))
        torch.testing.assert_close(picture, torch.from_numpy(expected).float(), atol=1e-4, rtol=1e-4)


def test_noise_has_a_half_normal_deviation_a_picture() -> None:
    noise = changed(torch.zeros(3, 8, 8), "noise")
    assert noise.square().mean().item() == pytest.approx(0.01, rel=0.06)
    kurtosis = (noise.pow(4).mean() / noise.square().mean() ** 2).item()
    assert kurtosis == pytest.approx(9, rel=0.15)  # E sigma^4 / (E sigma^2)^2 = 3, times 3
    assert abs((noise[:, 0, 0, 0] * noise[:, 1, 3, 5]).mean().item()) < 1e-3
    whole = noise.flatten(1)
    assert is_normal(whole[:, 0] / whole[:, 1:].square().mean(1).sqrt(), 1.0)


def test_a_square_of_half_the_side_is_cut_out_around_any_point() -> None:
    hidden = changed(torch.ones(2, 16, 16), "cutout") == 0
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    across, down = hidden[:, 0].any(1), hidden[:, 0].any(2)
    assert torch.equal(hidden[:, 0], across[:, None, :] & down[:, :, None])
    assert (across.sum(1) <= 8).all()
    assert across.sum(1).max() == 8
    # of a side's pixel at x it hides with the probability that the centre is within a quarter: min(x + 1/4, 1) - max(x - 1/4, 0)
    place = (torch.arange(16) + 0.5) / 16
    expected = (place + 0.25).clamp(max=1) - (place - 0.25).clamp(min=0)
    assert (across.float().mean(0) - expected).abs().max() < 0.04


def test_autocast_changes_nothing() -> None:
    images, position = pictures(), torch.arange(6)
    plain = augmented(images, position, 0.8, PRESETS["bgcfnc"], seed=0, stream="a")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augmented(images, position, 0.8, PRESETS["bgcfnc"], seed=0, stream="a"), plain)


@pytest.mark.parametrize("channels", [2, 4])
def test_refuses_colours_it_does_not_know(channels: int) -> None:
    with pytest.raises(ValueError, match=f"colours of pictures with {channels} channels are not known"):
        augmented(pictures(channels=channels), torch.arange(6), 0.5, PRESETS["bgc"], seed=0, stream="a")
    assert augmented(pictures(channels=channels), torch.arange(6), 0.5, PRESETS["bg"], seed=0, stream="a").shape[1] == channels


@pytest.mark.parametrize("preset", ["bgcfnc", "blit", "geom"])
def test_a_penalty_on_gradients_goes_through(preset: str) -> None:
    """R1 of a small judge behind the augmentation: its slope in a weight, by differences."""
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 1, 3))
    images = pictures(3).requires_grad_()
    made = augmented(images, torch.arange(3), 0.9, PRESETS[preset], seed=0, stream="a").double()
    judge.double()

    def penalty() -> Tensor:
        (slope,) = torch.autograd.grad(judge(made).sum(), images, create_graph=True)
        return slope.double().square().sum((1, 2, 3)).mean()

    weight = judge[0].weight
    (slope,) = torch.autograd.grad(penalty(), weight)
    assert slope.abs().max() > 0
    step, values = 1e-3, []
    for change in (step, -step):
        with torch.no_grad():
            weight[1, 2, 0, 1] += change
        values.append(penalty().item())
        with torch.no_grad():
            weight[1, 2, 0, 1] -= change
    assert slope[1, 2, 0, 1].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


@pytest.mark.slow
def test_it_compiles_as_one_graph() -> None:
    images, position = pictures().requires_grad_(), torch.arange(6)

    def function(images: Tensor, strength: Tensor) -> Tensor:
        return augmented(images, position, strength, PRESETS["bgcfnc"], seed=0, stream="a")

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for strength in (torch.tensor(0.0), torch.tensor(0.7)):
        made = compiled(images, strength)
        assert torch.equal(made, function(images, strength))
        slopes = [torch.autograd.grad(one.square().sum(), images)[0] for one in (made, function(images, strength))]
        torch.testing.assert_close(*slopes)
