"""StyleGAN3's synthesis network: published sizes and names, each part against its definition, and what it is for."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import signal
from torch import Tensor

from genlib import checkpoint, companions
from genlib.distributed import rank, world_size
from genlib.metrics.equivariance import shift_transform
from genlib.models.adversarial.stylegan import synthesis3
from genlib.models.adversarial.stylegan.generator import Generator
from genlib.models.adversarial.stylegan.mapping import Mapping
from genlib.models.adversarial.stylegan.motion import generator_equivariance
from genlib.models.adversarial.stylegan.synthesis2 import Synthesis2
from genlib.models.adversarial.stylegan.synthesis3 import AliasFree, FilteredLayer, FourierFeatures, Signal, Synthesis3, signals
from genlib.registry import load
from tests.models.stages import source_of, train_stage
from tests.processes import run_ranks

T, R = (AliasFree(), 32768, 512), (AliasFree(radial=True), 65536, 1024)


def published(configuration: tuple[AliasFree, int, int], side: int) -> Generator:
    """A whole generator on the meta device."""
    design, base, most = configuration
    with torch.device("meta"):
        return Generator(Mapping(512, 512, 2), Synthesis3(side, 3, 512, base, most, design=design))


def tiny(side: int = 32, low: int = 0, width: int = 16, **changes: float) -> Synthesis3:
    torch.manual_seed(0)
    return Synthesis3(side, 3, 8, 64 * width, width, low, AliasFree(**{"num_layers": 4, **changes}))


def styles(network: Synthesis3 | Synthesis2, rows: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(rows, network.num_ws, network.style_dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("configuration", "side", "names"),
    [
        (T, 1024, "36_512 36_512 52_512 52_512 84_512 148_512 148_512 276_323 276_203 532_128 1044_81 1044_51 1044_32 1024_32 1024_3"),
        (R, 1024, "36_1024 36_1024 52_1024 52_1024 84_1024 148_1024 148_1024 276_645 276_406 532_256 1044_161 1044_102 1044_64 1024_64 1024_3"),
        (T, 256, "36_512 36_512 36_512 52_512 52_512 84_512 84_512 148_512 148_512 148_362 276_256 276_181 276_128 256_128 256_3"),
    ],
)
def test_layers_have_their_published_names(configuration: tuple[AliasFree, int, int], side: int, names: str) -> None:
    assert published(configuration, side).synthesis.layer_names == [f"L{number}_{name}" for number, name in enumerate(names.split())]


@pytest.mark.parametrize(
    ("configuration", "side", "count"),
    [
        (T, 256, 28_472_133), (T, 512, 24_873_519), (T, 1024, 22_313_167),
        (R, 256, 18_816_387), (R, 512, 16_665_594), (R, 1024, 15_093_151),
    ],
)  # fmt: skip
def test_published_sizes_have_as_many_parameters_as_their_rules_give(configuration: tuple[AliasFree, int, int], side: int, count: int) -> None:
    """With the mapping network of two layers; the paper's 22.3 M of T at 1,024 pixels."""
    generator, (design, base, most) = published(configuration, side), configuration
    assert sum(weight.numel() for weight in generator.parameters()) == count
    cutoffs = [2 * (side / 4) ** min(layer / 12, 1) for layer in range(14)]
    channels = [round(min(base / 2 / cutoff, most)) for cutoff in cutoffs]
    area = 1 if design.radial else 9
    convolutions = sum(a * (513 + b * area) + b for a, b in zip([channels[0], *channels], channels, strict=False))
    image, waves, mapping = channels[-1] * (513 + 3) + 3, channels[0] ** 2 + 4 * 513, 2 * 512 * 513
    assert count == convolutions + image + waves + mapping


@pytest.mark.parametrize("configuration", [T, R])
def test_weights_have_the_published_names_and_shapes(configuration: tuple[AliasFree, int, int]) -> None:
    generator, radial = published(configuration, 1024), configuration[0].radial
    found = {name: tuple(value.shape) for name, value in generator.state_dict().items()}
    most, kernel = configuration[2], 1 if radial else 3
    expected = {"mapping.w_avg": (512,)}
    expected |= {f"mapping.fc{n}.{part}": shape for n in range(2) for part, shape in (("weight", (512, 512)), ("bias", (512,)))}
    expected |= {"synthesis.input.weight": (most, most), "synthesis.input.affine.weight": (4, 512), "synthesis.input.affine.bias": (4,)}
    expected |= {"synthesis.input.transform": (3, 3), "synthesis.input.freqs": (most, 2), "synthesis.input.phases": (most,)}
    before, rates = most, (16, 16, 32, 32, 64, 128, 128, 256, 256, 512, 1024, 1024, 1024, 1024)
    for number, name in enumerate(generator.synthesis.layer_names):
        after, at = int(name.split("_")[-1]), f"synthesis.{name}."
        sides = (1, 1) if number == 14 else (kernel, kernel)
        expected |= {f"{at}weight": (after, before, *sides), f"{at}bias": (after,), f"{at}magnitude_ema": ()}
        expected |= {f"{at}affine.weight": (before, 512), f"{at}affine.bias": (before,)}
        if number < 14:
            up = 24 if number and rates[number] > rates[number - 1] else 12
            expected |= {f"{at}up_filter": (up,), f"{at}down_filter": (12, 12) if radial and number < 12 else (12,)}
        before = after
    assert found == expected


def test_cutoffs_and_stopbands_are_geometric_and_fit_their_rates() -> None:
    made = signals(AliasFree(), 1024, 3, 32768, 512)
    assert made[0].cutoff == 2
    assert [one.cutoff for one in made[12:]] == [512] * 3
    assert all(b.cutoff / a.cutoff == pytest.approx(256 ** (1 / 12)) for a, b in pairwise(made[:13]))
    assert made[0].cutoff + made[0].half_width == pytest.approx(8), "a stopband of 2**2.1 leaves room up to half of the rate of 16"
    for one in made[:12]:
        assert one.cutoff + one.half_width <= one.rate / 2 * (1 + 1e-9)
        assert not one.critical
    assert made[12].critical
    assert made[12].cutoff + made[12].half_width == pytest.approx(512 * 2**0.3)


LAYERS = {
    "same": (Signal(4, 36, 16, 2.0, 6.0, False), Signal(3, 36, 16, 3.1, 4.9, False)),
    "up": (Signal(4, 36, 16, 3.1, 4.9, False), Signal(3, 52, 32, 4.8, 11.2, False)),
    "critical": (Signal(4, 52, 32, 4.8, 11.2, False), Signal(3, 52, 32, 16.0, 3.7, True)),
    "cropped": (Signal(4, 52, 32, 16.0, 3.7, True), Signal(3, 32, 32, 16.0, 3.7, True)),
}


def layer_of(kind: str, *, radial: bool = False, last: bool = False) -> FilteredLayer:
    torch.manual_seed(2)
    layer = FilteredLayer(8, *LAYERS[kind], AliasFree(radial=radial), last=last, low=False)
    torch.nn.init.normal_(layer.bias)
    layer.magnitude_ema.fill_(1.7)
    return layer


def resampler(taps: Tensor, gain: int, made: Tensor, from_: Tensor) -> Tensor:
    """What each sample at places `made` takes of each at `from_`, both in steps of the finer grid, as a matrix."""
    index = made[:, None] - from_ + (len(taps) - 1) / 2
    whole = index.round().long()
    assert (index - whole).abs().max() < 1e-9, "taps fall between samples"
    inside = (whole >= 0) & (whole < len(taps))
    return torch.where(inside, gain * taps.double()[whole.clamp(0, len(taps) - 1)], 0.0)


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_its_definition(kind: str, radial: bool) -> None:
    """By each sample's own demodulated weights, and filters as sums over places measured from the middle."""
    layer, (before, after) = layer_of(kind, radial=radial), LAYERS[kind]
    x, w = torch.randn(2, 4, before.size, before.size), torch.randn(2, 8)
    style = (w @ layer.affine.weight.T / 8**0.5 + layer.affine.bias).double()
    inner = 2 * max(before.rate, after.rate)
    up, down = inner // before.rate, inner // after.rate
    size = before.size + layer.kernel - 1
    places = [(torch.arange(n, dtype=torch.float64) + 0.5 - n / 2) * step for n, step in ((size, up), (size * up + 60, 1), (after.size, down))]
    raise_ = resampler(layer.up_filter, up, places[1], places[0])
    for row in range(2):
        weight = layer.weight.double() * style[row, :, None, None]
        weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt() / 1.7**0.5
        planes = np.stack([
            sum(signal.correlate2d(x[row, i].double().numpy(), weight[o, i].detach().numpy(), "full") for i in range(4)) for o in range(3)
        ])  # fmt: skip
        high = raise_ @ (torch.from_numpy(planes) + layer.bias.double()[:, None, None]) @ raise_.T
        high = 2**0.5 * torch.where(high > 0, high, 0.2 * high)
        if layer.down_filter.dim() == 1:
            lower = resampler(layer.down_filter, 1, places[2], places[1])
            expected = lower @ high @ lower.T
        else:
            full = [signal.convolve2d(plane.detach().numpy(), layer.down_filter.double().numpy(), "full") for plane in high]
            start = round(float(places[2][0] - places[1][0] + (len(layer.down_filter) - 1) / 2))
            cut = slice(start, start + (after.size - 1) * down + 1, down)
            expected = torch.from_numpy(np.stack(full))[:, cut, cut]
        torch.testing.assert_close(layer(x, w)[row].double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_mirrored_comes_out_mirrored(kind: str, radial: bool) -> None:
    """The middle stays the middle, to a fraction of a sample."""
    layer = layer_of(kind, radial=radial)
    other, size = copy.deepcopy(layer), LAYERS[kind][0].size
    other.weight.data = layer.weight.data.flip(3)
    x, w = torch.randn(2, 4, size, size), torch.randn(2, 8)
    torch.testing.assert_close(other(x.flip(3), w), layer(x, w).flip(3), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer_of(kind, radial=radial)(x, w), layer(x, w))


def test_the_last_layer_is_linear_and_clamped() -> None:
    layer = layer_of("same", last=True)
    x, w = torch.randn(2, 4, 36, 36), torch.randn(2, 8)
    style = layer.affine(w) / 2 / 1.7**0.5
    expected = torch.einsum("bihw,bi,oi->bohw", x, style, layer.weight[:, :, 0, 0]) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x, w), expected, atol=1e-5, rtol=1e-5)
    assert layer(1e6 * x, w).abs().max() == 256


def test_outputs_have_unit_power_whatever_comes_in_once_its_power_is_known() -> None:
    torch.manual_seed(0)
    before, after = Signal(64, 36, 16, 2.0, 6.0, False), Signal(64, 36, 16, 3.1, 4.9, False)
    layer = FilteredLayer(8, before, after, AliasFree(), last=False, low=False)
    x, w, found = torch.randn(8, 64, 36, 36), torch.randn(8, 8), []
    for scale in (1.0, 30.0):
        layer.magnitude_ema.fill_(scale**2)
        style, weight, gain = layer.modulation(w)
        made = torch.nn.functional.conv2d(scale * x * style[:, :, None, None], weight, padding=1) * gain[:, :, None, None]
        assert made[:, :, 1:-1, 1:-1].square().mean().item() == pytest.approx(2, rel=0.03), "LeakyReLU's gain is in it"
        found.append(layer(scale * x, w))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def features_of(size: int = 36) -> FourierFeatures:
    torch.manual_seed(0)
    return FourierFeatures(8, Signal(200, size, 16, 2.0, 6.0, False))


def test_fourier_features_are_mixed_waves() -> None:
    layer = features_of()
    w, transform = torch.randn(2, 8), torch.tensor([[0.8, -0.6, 0.1], [0.6, 0.8, -0.2], [0, 0, 1]])
    torch.nn.init.normal_(layer.affine.weight)
    place = (torch.arange(36) + 0.5 - 18) / 16
    for row, (cos, sin, right, down) in enumerate(layer.affine(w).detach()):
        length = torch.hypot(cos, sin)
        turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, length]]) / length
        shift = torch.tensor([[1, 0, -right / length], [0, 1, -down / length], [0, 0, 1]])
        y, x = torch.meshgrid(place, place, indexing="ij")
        points = (turn @ shift @ transform @ torch.stack([x, y, torch.ones_like(x)]).flatten(1))[:2]
        waves = torch.sin(2 * math.pi * (layer.freqs @ points + layer.phases[:, None]))
        expected = (layer.weight / 200**0.5 @ waves).view(200, 36, 36)
        torch.testing.assert_close(layer(w, transform)[row], expected, atol=1e-4, rtol=1e-4)


def test_frequencies_fill_a_disc_and_start_neither_turned_nor_shifted() -> None:
    layer = features_of()
    radius = layer.freqs.norm(dim=1)
    assert radius.max() < 2
    assert (radius.square() < 2).float().mean().item() == pytest.approx(0.5, abs=0.12), "half of the disc's area"
    freqs, phases = layer.moved(torch.randn(3, 8), torch.eye(3))
    torch.testing.assert_close(freqs, layer.freqs.expand(3, -1, -1))
    torch.testing.assert_close(phases, layer.phases.expand(3, -1))
    assert layer(torch.randn(3, 8)).square().mean().item() == pytest.approx(0.5, abs=0.1), "the power of sines"


def test_waves_that_a_transform_makes_too_fine_are_damped() -> None:
    layer, w = features_of(), torch.zeros(1, 8)
    assert layer(w, torch.diag(torch.tensor([100.0, 100.0, 1.0]))).abs().mean() < 0.1 * layer(w).abs().mean()


def test_a_shift_of_the_input_by_whole_samples_shifts_it() -> None:
    layer, w = features_of(), torch.randn(1, 8)
    moved = layer(w, shift_transform(3 / 16, -2 / 16))
    torch.testing.assert_close(moved[:, :, :-2, 3:], layer(w)[:, :, 2:, :-3], atol=1e-4, rtol=1e-4)


def decibels(synthesis: Synthesis3 | Synthesis2) -> dict[str, float]:
    """Of images with a deviation of 1/2."""
    torch.manual_seed(3)
    generator, noise = Generator(Mapping(8, 8, 2), synthesis), torch.randn(5, 8)
    before = copy.deepcopy(generator.state_dict())
    with torch.no_grad():
        factor = 0.5 / generator(noise).std()
    scaled = synthesis.register_forward_hook(lambda module, inputs, image: factor * image)
    found = generator_equivariance(generator, noise, batch=2)
    scaled.remove()
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    return found


def test_shifts_move_its_images_by_far_more_decibels_than_stylegan2s_and_turns_do_in_r() -> None:
    torch.manual_seed(0)
    two = decibels(Synthesis2(64, 3, 8, 1024, 16))
    t, r = decibels(tiny(64)), decibels(tiny(64, radial=True))
    for name in ("eq_t", "eq_t_frac"):
        assert min(t[name], r[name]) > two[name] + 30
    assert two.keys() == {"eq_t", "eq_t_frac"}
    assert r["eq_r"] > 45
    assert r["eq_r"] > t["eq_r"] + 20


def scores(recipe: str, folder: Path) -> dict[str, float]:
    """Of the trained smoke form."""
    (stage,) = load(recipe).smoke
    return companions.assess(checkpoint.load_task(train_stage(recipe, stage, folder / recipe, {})), source_of(stage), folder)


def test_trained_too_it_moves_by_ten_decibels_more_than_stylegan2(tmp_path: Path) -> None:
    two, three = (scores(recipe, tmp_path) for recipe in ("stylegan2", "stylegan3_t"))
    for name in ("validation/eq_t", "validation/eq_t_frac"):
        assert three[name] > two[name] + 10
    assert "validation/eq_r" in three
    assert "validation/eq_r" not in two


def test_an_image_depends_on_its_own_styles() -> None:
    network = tiny()
    ws = styles(network, 4)
    torch.testing.assert_close(network(ws)[1:3], network(ws[1:3]), atol=1e-6, rtol=1e-5)
    assert network(ws).shape == (4, 3, 32, 32)
    for layer in range(network.num_ws):
        other = ws.clone()
        other[:, layer] += 1
        assert torch.equal(network(other), network(ws)) == (layer == 0), "how the input is moved starts as no function of styles"


def test_it_is_a_synthesis_network_of_a_generator() -> None:
    network = tiny()
    generator = Generator(Mapping(8, 8, 2), network)
    image = generator(torch.randn(2, 8))
    assert image.shape == (2, 3, 32, 32)
    assert not torch.equal(image, generator(torch.randn(2, 8)))


@pytest.mark.parametrize("low", [1, 2])
def test_large_rates_in_bf16_are_near_to_float32(low: int) -> None:
    whole, less = tiny(), tiny(low=low)
    rates = [one.rate for one in signals(AliasFree(num_layers=4), 32, 3, 1024, 16)]
    assert [layer.low for layer in less.layers] == [rate > 32 / 2**low for rate in rates]
    assert set(rates) == {16, 32}
    ws = styles(whole)
    image = less(ws)
    assert image.dtype == torch.float32
    assert 1e-5 < (image - whole(ws)).abs().max() < 0.05 * whole(ws).abs().max()


def test_autocast_leaves_the_waves_in_float32() -> None:
    network, ws = tiny(), styles(tiny())
    with torch.autocast("cpu", torch.bfloat16):
        image = network(ws)
    assert image.dtype == torch.float32
    assert 1e-5 < (image - network(ws)).abs().max() < 0.1 * network(ws).abs().max()


def follow(network: Synthesis3, ws: Tensor, valid: Tensor) -> None:
    for part, counts in zip(ws.chunk(2), valid.chunk(2), strict=True):  # two micro-batches
        network(part, valid=counts)
    network.settle()


def test_running_powers_follow_rows_that_count_by_their_halflife() -> None:
    network, ws = tiny(power_halflife_samples=3.0), styles(tiny(), 4)
    network(ws)
    network.settle()
    assert all(layer.magnitude_ema == 1 for layer in network.layers), "nothing was to be followed"
    ws[3] = torch.nan
    follow(network, ws, torch.tensor([True, True, True, True]))
    x = network.input(ws[:3, 0])
    powers = [x.square().mean()]
    for layer, w in zip(network.layers[:-1], ws[:3, 1:].unbind(1), strict=False):
        kept, layer.magnitude_ema = layer.magnitude_ema, torch.ones(())
        x = layer(x, w)
        layer.magnitude_ema = kept
        powers.append(x.square().mean())
    for layer, power in zip(network.layers, powers, strict=True):
        assert layer.magnitude_ema.item() == pytest.approx((1 + power.item()) / 2, rel=1e-4), "three of them: half of the way"
        assert layer.seen.total.tolist() == [0, 0]


def on_ranks(folder: Path) -> None:
    network, ws, valid = tiny(power_halflife_samples=5.0), styles(tiny(), 8), torch.arange(8) != 6
    mine = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
    follow(network, ws[mine], valid[mine])
    save_file(network.state_dict(), folder / f"{rank()}.safetensors")


def test_two_processes_follow_as_one(tmp_path: Path) -> None:
    run_ranks(2, on_ranks, tmp_path)
    network = tiny(power_halflife_samples=5.0)
    follow(network, styles(network, 8), torch.arange(8) != 6)
    ranks = [load_file(tmp_path / f"{number}.safetensors") for number in range(2)]
    for name, value in network.state_dict().items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], value, atol=1e-6, rtol=1e-6)
    assert network.layers[-1].magnitude_ema != 1


def test_gradients_of_gradients_by_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of path lengths in the space of styles, with respect to a kernel; without the ReLU's kinks, over which lengths jump."""
    monkeypatch.setattr(synthesis3, "SLOPE", 1.0)
    network = tiny(width=4, num_layers=3).double()
    ws = styles(network).double().requires_grad_()
    direction = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    def lengths() -> Tensor:
        (slope,) = torch.autograd.grad((network(ws).double() * direction).sum(), ws, create_graph=True)
        return slope.square().sum((1, 2)).sqrt().mean()

    weight = network.layers[1].weight
    (slope,) = torch.autograd.grad(lengths(), weight)
    values, step = [], 1e-3
    for change in (step, -2 * step):
        with torch.no_grad():
            weight[1, 2, 0, 1] += change
        values.append(lengths().item())
    assert slope[1, 2, 0, 1].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("side", [0, 4, 24, 100])
def test_sizes_that_do_not_fit_are_refused(side: int) -> None:
    with pytest.raises(ValueError, match=f"image_size {side} is no power of two from 8 on"):
        tiny(side)


def test_designs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="num_critical 4 leaves no other of 4 layers"):
        AliasFree(num_layers=4, num_critical=4)
    with pytest.raises(ValueError, match="first_stopband 2 is not above first_cutoff 2"):
        AliasFree(first_stopband=2.0)
    with pytest.raises(ValueError, match="first_cutoff 5 is not below 4, the most that images of 8 show"):
        tiny(8, first_cutoff=5.0, first_stopband=6.0)


@pytest.mark.slow
def test_forward_and_backward_compile_as_one_graph() -> None:
    network = tiny(num_layers=2, num_critical=1)
    ws, valid = styles(network), torch.ones(2, dtype=torch.bool)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    image = compiled(ws, valid=valid)
    torch.testing.assert_close(image, network(ws), atol=1e-5, rtol=1e-5)
    image.square().mean().backward()
    assert all(weight.grad is not None for name, weight in network.named_parameters())
