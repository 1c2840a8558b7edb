"""StyleGAN2's networks: published sizes, the rules of the papers, and one form of a convolution against the other."""

from __future__ import annotations

import pytest
import torch

from genlib.models.adversarial.base.resolutions import sides
from genlib.models.adversarial.stylegan import synthesis2
from genlib.models.adversarial.stylegan.discriminator import StyleDiscriminator
from genlib.models.adversarial.stylegan.generator import Generator
from genlib.models.adversarial.stylegan.mapping import Mapping
from genlib.models.adversarial.stylegan.synthesis2 import Synthesis2, modulated_conv


def parameters(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("side", "base", "styles", "generator", "discriminator"),
    [(256, 16384, 14, 24_767_458, 24_001_089), (1024, 32768, 18, 30_370_060, 29_012_513)],
)
def test_published_sizes_have_their_published_parameters(side: int, base: int, styles: int, generator: int, discriminator: int) -> None:
    """NVlabs' stylegan2-ada-pytorch, configurations for 256 (paper256) and 1,024 pixels (stylegan2)."""
    with torch.device("meta"):
        synthesis = Synthesis2(side, 3, 512, base, 512)
        assert parameters(Generator(Mapping(512, 512, 8), synthesis)) == generator
        assert parameters(StyleDiscriminator(side, 3, base, 512)) == discriminator
    assert synthesis.num_ws == styles


def tiny(**changes: int) -> Generator:
    torch.manual_seed(0)
    return Generator(Mapping(16, 16, 2), Synthesis2(32, 3, 16, 512, 64, **changes))


def test_a_demodulated_convolution_keeps_unit_variance() -> None:
    torch.manual_seed(0)
    x, weight, style = torch.randn(32, 48, 16, 16), torch.randn(64, 48, 3, 3), torch.rand(32, 48) * 3
    assert modulated_conv(x, weight, style, None, gain=1.0, demodulate=True)[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_both_forms_of_a_modulated_convolution_are_one(monkeypatch: pytest.MonkeyPatch, up: bool, demodulate: bool) -> None:
    torch.manual_seed(0)
    x, weight, style = torch.randn(3, 6, 16, 16), torch.randn(5, 6, 3, 3), torch.rand(3, 6) + 0.5
    kernel = synthesis2.low_pass() if up else None
    found = []
    for few in (0, 1000):
        monkeypatch.setattr(synthesis2, "_FEW_CHANNELS", few)
        monkeypatch.setattr(synthesis2, "_MANY_PIXELS", 0)
        found.append(modulated_conv(x, weight, style, kernel, gain=1.3, demodulate=demodulate))
    assert found[0].shape == (3, 5, 32, 32) if up else (3, 5, 16, 16)
    assert torch.allclose(*found, atol=1e-5)


def test_without_strength_noise_changes_nothing_and_with_it_everything() -> None:
    generator, ws = tiny(), torch.randn(2, 8, 16)
    planes = [generator.planes(torch.randn(2, generator.noise_numbers)) for _ in range(2)]
    assert torch.equal(generator.drawn(ws, planes[0]), generator.drawn(ws, planes[1]))
    for name, weight in generator.named_parameters():
        if name.endswith("noise_strength"):
            weight.data.fill_(0.5)
    images = [generator.drawn(ws, noise) for noise in (*planes, "const", "none")]
    assert all(not torch.allclose(images[a], images[b]) for a in range(4) for b in range(a))


def test_the_later_another_style_is_mixed_in_the_less_it_changes() -> None:
    generator = tiny()
    first, second = torch.randn(2, 64, 16).unbind(0)
    ends = [generator.drawn(generator.same_style(style), "const") for style in (first, second)]
    mixes = [generator.drawn(generator.mixed(first, second, torch.full((64,), layer)), "const") for layer in (1, 3, 5, 7, 8)]
    away = [[(mixed - end).square().mean().item() for end in ends] for mixed in mixes]
    assert [pair[0] for pair in away] == sorted((pair[0] for pair in away), reverse=True)
    assert [pair[1] for pair in away] == sorted(pair[1] for pair in away)
    assert away[0][0] > away[0][1]
    assert away[-1][0] == 0


def test_mixing_takes_the_first_style_before_the_crossover_and_the_second_from_it_on() -> None:
    generator = tiny()
    ws = generator.mixed(torch.zeros(2, 16), torch.ones(2, 16), torch.tensor([3, 8]))
    assert ws[0, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert not ws[1].any()


def test_truncation_goes_from_the_mean_to_the_style() -> None:
    mapping = Mapping(16, 16, 2)
    w = mapping(torch.randn(64, 16))
    with pytest.raises(ValueError, match="draws styles to their mean, which this generator has not"):
        mapping.truncated(w, 0.5)
    mapping.w_avg.copy_(w.mean(0))
    spreads = [mapping.truncated(w, psi).std(0).mean().item() for psi in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert spreads == sorted(spreads)
    assert spreads[0] == pytest.approx(0, abs=1e-6)
    assert torch.allclose(mapping.truncated(w, 0.0), w.mean(0).expand_as(w), atol=1e-6)


def test_bf16_is_of_the_largest_resolutions_alone_and_clamped() -> None:
    plain, low = tiny(), tiny(low=2)
    assert [block.low for block in low.synthesis.blocks] == [False, False, True, True]
    ws = torch.randn(4, 8, 16)
    difference = (plain.drawn(ws, "const") - low.drawn(ws, "const")).abs().mean() / plain.drawn(ws, "const").abs().mean()
    assert 0 < difference < 0.05
    assert low.drawn(ws * 1e4, "const").isfinite().all()


def test_a_discriminator_whose_largest_resolutions_are_bf16_gives_the_same_but_for_rounding() -> None:
    torch.manual_seed(0)
    plain, low = StyleDiscriminator(32, 1, 256, 16), StyleDiscriminator(32, 1, 256, 16, low=1)
    low.load_state_dict(plain.state_dict())
    images = torch.randn(4, 1, 32, 32)
    logits = low(images)
    assert logits.dtype == torch.float32
    assert 0 < (logits - plain(images)).abs().max() < 0.1


@pytest.mark.parametrize("side", [4, 12, 100, 0])
def test_a_size_that_is_no_power_of_two_is_refused_with_the_two_beside_it(side: int) -> None:
    with pytest.raises(ValueError, match="is no power of two from 8 on, as StyleGAN and ProGAN need; use "):
        sides(side)


def test_labels_change_what_is_drawn_and_what_is_judged() -> None:
    torch.manual_seed(0)
    generator = Generator(Mapping(16, 16, 2, classes=3), Synthesis2(16, 1, 16, 256, 32))
    discriminator = StyleDiscriminator(16, 1, 256, 32, classes=3)
    noise, labels = torch.randn(1, 16).expand(2, -1), torch.eye(3)[:2]
    images = generator(noise, None, labels)
    assert not torch.allclose(images[0], images[1])
    logits = discriminator(images[:1].expand(2, -1, -1, -1), None, labels)
    assert logits.shape == (2, 1)
    assert logits[0] != logits[1]


def test_a_row_of_the_discriminator_without_groups_is_alone() -> None:
    torch.manual_seed(0)
    discriminator, images = StyleDiscriminator(16, 1, 256, 32, group=1), torch.randn(5, 1, 16, 16)
    assert torch.allclose(discriminator(images)[2:3], discriminator(images[2:3]), atol=1e-5)
