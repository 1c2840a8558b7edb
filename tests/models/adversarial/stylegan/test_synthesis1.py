"""StyleGAN 1: its published sizes, what a style does to a layer, noise, mixing, truncation, and how it grows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import companions, registry
from genlib.engine.prefetcher import with_weight
from genlib.functional.resampling import conv_upsampled, low_pass
from genlib.models.adversarial.base.equalized import EqualizedConv
from genlib.models.adversarial.base.growing import Growing, doubled
from genlib.models.adversarial.stylegan.labelled import LabelledStyleGAN
from genlib.models.adversarial.stylegan.motion import generator_equivariance
from genlib.models.adversarial.stylegan.projection import distance, nearest_styles
from genlib.models.adversarial.stylegan.settings import StyleGame, StyleNetworks
from genlib.models.adversarial.stylegan.synthesis1 import AdaIN, AdaptedLayer
from genlib.models.adversarial.stylegan.task import StyleGAN, StyleGANConfig
from genlib.models.base.health import Health
from genlib.types import DataSpec, Step
from tests.models.stages import built_on_meta

DATA, STEP = DataSpec(channels=1, image_size=16, class_names=("a", "b", "c")), Step(0, 10, seed=3)
GROWING = Growing(first_size=8, stable_samples=100, fade_samples=50)
GROWN = 150
NETWORKS = StyleNetworks(synthesis="stylegan1", growing=GROWING, latent_dim=8, style_dim=8, mapping_layers=2, channel_base=256, channel_max=16)
GAME = StyleGame(gamma=3.0, penalty_every=1, path_weight=0.0)


def made(samples: int = GROWN, game: StyleGame = GAME, seed: int = 0) -> StyleGAN:
    torch.manual_seed(seed)
    task = StyleGAN(NETWORKS, game, Health(), DATA)
    task.growth.samples.fill_(samples)
    return task


def with_noise(task: StyleGAN, strength: float = 0.5) -> StyleGAN:
    for name, weight in task.generator.named_parameters():
        if name.endswith("noise_strength"):
            weight.data.fill_(strength)
    return task


def parameters(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(("first", "generator", "discriminator"), [(4, 26_219_627, 23_087_249), (8, 26_218_088, 23_085_201)])
def test_the_paper_has_these_parameters(first: int, generator: int, discriminator: int) -> None:
    """What NVlabs' stylegan prints of its networks for 1,024 pixels: 26.2 million (section 2) against 23.1 million.

    Their layers to and from images of 4 x 4 pixels are unused where training starts at 8 x 8.
    """
    networks = StyleNetworks(synthesis="stylegan1", growing=Growing(first_size=first))
    with torch.device("meta"):
        shape = networks.shape(DataSpec(image_size=1024))
        network = networks.generator(shape)
        assert parameters(network) == generator
        assert parameters(network.mapping) == 8 * (512 * 512 + 512)
        assert parameters(networks.discriminator(shape)) == discriminator


def test_a_picture_of_1024_pixels_takes_18_styles() -> None:
    networks = StyleNetworks(synthesis="stylegan1", channel_base=1, latent_dim=8, style_dim=8)
    synthesis = networks.generator(networks.shape(DataSpec(image_size=1024))).synthesis
    assert synthesis.num_ws == len(synthesis.noise_sides) == 4
    synthesis.growth.end()
    assert synthesis.num_ws == len(synthesis.noise_sides) == 18


def test_the_preset_is_the_papers() -> None:
    (stage,) = registry.load("stylegan1_1024").stages
    task = built_on_meta("stylegan1_1024")["train"]
    assert (parameters(task.generator), parameters(task.discriminator)) == (26_218_088, 23_085_201)  # type: ignore[arg-type]
    assert isinstance(stage.task, StyleGANConfig)
    network, game = stage.task.network, stage.task.game
    assert (network.mapping_layers, network.latent_dim, network.style_dim, network.layer_noise) == (8, 512, 512, True)
    assert (network.growing.first_size, network.growing.stable_samples, network.growing.fade_samples) == (8, 600_000, 600_000)
    assert (game.loss, game.gamma, game.penalty_every, game.path_weight, game.style_mixing) == ("non_saturating", 10, 1, 0, 0.9)
    assert [phase.name for phase in task.phases] == ["discriminator", "generator"]


def test_what_leaves_a_layer_has_the_mean_and_deviation_that_its_style_says() -> None:
    torch.manual_seed(0)
    adain, x, w = AdaIN(6, 8), 3 * torch.randn(4, 6, 16, 16) - 2, torch.randn(4, 8)
    found, (scale, mean) = adain(x, w), adain.style(w)
    assert scale.std() > 0.5
    assert torch.allclose(found.mean((2, 3)), mean, atol=1e-4)
    assert torch.allclose(found.std((2, 3), correction=0), scale.abs(), atol=1e-4)


def test_a_style_starts_around_deviation_one_and_mean_zero() -> None:
    scale, mean = AdaIN(6, 8).style(torch.zeros(1, 8))
    assert torch.equal(scale, torch.ones(1, 6))
    assert torch.equal(mean, torch.zeros(1, 6))


def test_a_layer_is_a_blurred_convolution_noise_bias_activation_and_its_style() -> None:
    torch.manual_seed(0)
    layer, x, w, noise = AdaptedLayer(5, 6, 8, 16, up=True), torch.randn(2, 5, 8, 8), torch.randn(2, 8), torch.randn(2, 1, 16, 16)
    torch.nn.init.normal_(layer.bias)
    assert layer.noise_strength is not None
    assert layer.conv is not None
    torch.nn.init.normal_(layer.noise_strength)
    wide = conv_upsampled(x, layer.conv.weight * (2 / (5 * 9)) ** 0.5, low_pass())
    wide = F.leaky_relu(wide + noise * layer.noise_strength.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1), 0.2)
    assert torch.allclose(layer(x, w, noise), layer.adain(wide, w), atol=1e-5)


def test_the_input_is_a_constant_of_4_by_4() -> None:
    first, *others = made().generator.synthesis.blocks
    assert torch.equal(first.const, torch.ones(16, 4, 4))
    assert not any("const" in dict(block.named_parameters(recurse=False)) for block in others)
    assert registry.load("stylegan1_1024").stages[0].task.network.channel_max == 512  # type: ignore[attr-defined]


def test_without_strength_the_seed_of_the_noise_changes_nothing_and_with_it_everything() -> None:
    task = made()
    planes = [task.generator.planes(torch.randn(2, task.generator.noise_numbers)) for _ in range(2)]
    ws = torch.randn(2, task.generator.synthesis.num_ws, 8)
    assert torch.equal(*(task.generator.drawn(ws, plane) for plane in planes))
    assert torch.equal(task.generate(seed=[4, 5], layer_noise="random"), task.generate(seed=[4, 5]))
    with_noise(task)
    images = [task.generator.drawn(ws, noise) for noise in (*planes, "const", "none")]
    assert all(not torch.allclose(images[a], images[b]) for a in range(4) for b in range(a))
    together = task.generate(seed=[4, 5], layer_noise="random")
    assert torch.allclose(together[1:], task.generate(seed=[5], layer_noise="random"), atol=1e-5)


@pytest.mark.parametrize("layer", range(7))
def test_from_a_crossover_on_layers_are_the_seconds_and_before_it_the_firsts(layer: int) -> None:
    network = made().generator
    first, second = torch.randn(2, 3, 8).unbind(0)
    maps: list[Tensor] = []
    for block in network.synthesis.blocks:
        for one in (block.layer0, block.layer1):
            one.register_forward_hook(lambda _module, _given, found: maps.append(found))
    image = network.drawn(network.mixed(first, second, torch.full((3,), layer)), "const")
    mixed, alone = maps.copy(), network.drawn(network.same_style(first), "const")
    same = [torch.equal(a, b) for a, b in zip(mixed, maps[len(mixed) :], strict=True)]
    assert same == [number < layer for number in range(6)]
    assert torch.equal(image, alone) == (layer == 6)
    if layer == 0:
        assert torch.equal(image, network.drawn(network.same_style(second), "const"))


def test_coarse_content_is_the_firsts_and_fine_content_the_seconds() -> None:
    task = made()
    first, second = [1] * 16, list(range(100, 116))

    def coarse(image: Tensor) -> Tensor:
        return F.avg_pool2d(image, 4)

    ends = [task.generate(seed=seeds) for seeds in (first, second)]
    mixed = task.mix(seed=first, style_seed=second, style_layer=4)
    assert (coarse(mixed) - coarse(ends[0])).square().mean() < (coarse(mixed) - coarse(ends[1])).square().mean()
    late = task.mix(seed=first, style_seed=second, style_layer=1)
    assert (coarse(late) - coarse(ends[1])).square().mean() < (coarse(late) - coarse(ends[0])).square().mean()


def test_truncation_goes_from_the_mean_image_to_each_ones_own() -> None:
    task = made()
    mapping = task.generator.mapping
    mapping.w_avg.copy_(mapping(task.latents(range(500))).mean(0))
    images = {psi: task.generate(seed=list(range(32)), truncation=psi) for psi in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert torch.allclose(images[0.0], images[0.0][:1].expand_as(images[0.0]), atol=1e-6)
    assert torch.allclose(images[0.0][:1], task.draw(code=mapping.w_avg[None]), atol=1e-5), "but for rounding, as batches are of other sizes"
    spreads = [image.std(0).mean().item() for image in images.values()]
    assert spreads == sorted(spreads)
    assert spreads[0] < 1e-6 < spreads[1]


def test_images_pass_from_one_resolution_to_the_next_without_a_jump() -> None:
    network, ws = made().generator.synthesis, torch.randn(3, 6, 8)
    old, new = network.drawn(ws, "const", 8, 1.0), network.drawn(ws, "const", 16, 1.0)
    assert torch.equal(network.drawn(ws, "const", 16, 0.0), doubled(old))
    assert torch.allclose(network.drawn(ws, "const", 16, 0.25), 0.75 * doubled(old) + 0.25 * new, atol=1e-6)
    network.torgb8.weight.data.fill_(float("nan"))
    assert torch.equal(network.drawn(ws, "const", 16, 1.0), new)


def test_styles_and_noise_are_those_of_the_layers_that_draw() -> None:
    task = made(0)
    rows = {"position": torch.arange(2000), "valid": torch.ones(2000, dtype=torch.bool)}
    for samples, count, sides in ((0, 4, [4, 4, 8, 8]), (101, 6, [4, 4, 8, 8, 16, 16])):
        task.growth.samples.fill_(samples)
        assert task.generator.synthesis.noise_sides == sides
        ws = task.styles(rows, STEP, "discriminator")
        assert ws.shape == (2000, count, 8)
        crossovers = (ws == ws[:, :1]).all(2).sum(1)
        assert set(crossovers.tolist()) == set(range(1, count + 1))
        assert (crossovers < count).float().mean().item() == pytest.approx(0.9, abs=0.03)


def test_a_penalty_of_every_step_is_part_of_the_discriminators_loss() -> None:
    task, plain = made(), made(game=StyleGame(gamma=0.0, path_weight=0.0))
    assert [phase.name for phase in task.phases] == ["discriminator", "generator"]
    rows = with_weight({"image": torch.rand(8, 1, 16, 16), "position": torch.arange(8), "valid": torch.ones(8, dtype=torch.bool)}, 8)
    loss, values = task.loss("discriminator", rows, STEP)
    image = (rows["image"] * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(task.discriminator(image).sum(), image)
    squares = gradient.square().sum((1, 2, 3))
    assert torch.allclose(values["r1"], squares, rtol=1e-4)
    assert torch.allclose(loss, plain.loss("discriminator", rows, STEP)[0] + 1.5 * squares, rtol=1e-4)


def test_data_are_seen_with_the_detail_that_is_drawn() -> None:
    task, image = made(0), torch.rand(2, 1, 16, 16)
    assert torch.allclose(task.real({"image": image}), doubled(F.avg_pool2d(image, 2)) * 2 - 1, atol=1e-6)


@pytest.mark.parametrize("samples", [0, 125, GROWN])
def test_a_generators_folder_knows_how_far_it_has_grown(tmp_path: Path, samples: int) -> None:
    one, other = with_noise(made(samples)), made(0, seed=1)
    companions.export(one, tmp_path)
    companions.load_pretrained(other, tmp_path)
    assert torch.equal(one.generate(seed=[1]), other.generate(seed=[1]))
    assert other.growth.place == other.discriminator.growth.place == one.growth.place


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    companions.export(made(), tmp_path)
    torch.manual_seed(0)
    other = StyleGAN(StyleNetworks(**{name: getattr(NETWORKS, name) for name in SIZES}), StyleGame(), Health(), DATA)
    with pytest.raises(ValueError, match=r"its class_name is training.networks_stylegan.G_style and training.networks_stylegan2.Generator here"):
        companions.load_pretrained(other, tmp_path)


SIZES = ("latent_dim", "style_dim", "mapping_layers", "channel_base", "channel_max")


def test_a_projected_image_is_nearer_than_the_style_it_starts_from() -> None:
    task = made()
    image = task.generate(seed=[100, 101])
    start = task.draw(code=nearest_styles(task.generator, image * 2 - 1))
    found = task.draw(code=task.project(image=image, steps=40))
    far, near = (distance(one, image) for one in (start, found))
    assert (near < 0.8 * far).all()


def test_labels_change_what_is_drawn_and_what_is_judged() -> None:
    torch.manual_seed(0)
    task = LabelledStyleGAN(NETWORKS, GAME, Health(), DATA)
    images = task.generate(seed=[1, 1], label=[0, 1])
    assert not torch.allclose(images[0], images[1])
    logits = task.discriminator(images[:1].expand(2, -1, -1, -1), None, torch.eye(3)[:2])
    assert logits[0] != logits[1]


def test_bf16_is_of_the_largest_resolutions_alone() -> None:
    torch.manual_seed(0)
    sizes = {name: getattr(NETWORKS, name) for name in SIZES}
    networks = StyleNetworks(synthesis="stylegan1", growing=Growing(first_size=0), bf16_resolutions=1, **sizes)
    low = networks.generator(networks.shape(DATA))
    kinds = []
    for block in low.synthesis.blocks:
        block.register_forward_hook(lambda _module, _given, found: kinds.append(found.dtype))
    assert low(torch.randn(2, 8)).dtype == torch.float32
    assert kinds == [torch.float32, torch.float32, torch.bfloat16]


def test_its_motion_is_measured_as_stylegan2s() -> None:
    found = generator_equivariance(made().generator, torch.randn(8, 8), batch=4)
    assert set(found) == {"eq_t", "eq_t_frac"}


def test_layers_blur_what_they_double_and_halve() -> None:
    task = made()
    resampling = [one for one in task.modules() if isinstance(one, EqualizedConv) and 2 in (one.up, one.down)]
    assert len(resampling) == 4
    assert all(torch.equal(one.resample_filter, low_pass((1, 3, 3, 1))) for one in resampling)
