"""The rules of DCGAN, read off its networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlib import companions
from genlib.config import OptimConfig
from genlib.metrics.checkerboard import checkerboard
from genlib.models.adversarial.dcgan import DCGAN, ConvDiscriminator, ConvGenerator, Convolutional, DCGANConfig, Layer, halvings
from genlib.nn.batch_norm import BatchNorm
from genlib.registry import load
from genlib.types import DataSpec, Step

COLOUR = DataSpec(channels=3, image_size=64)


def made(network: Convolutional | None = None, data: DataSpec = COLOUR) -> DCGAN:
    torch.manual_seed(0)
    return DCGANConfig(network=network or Convolutional(width=32)).build(data, {})


def layers(network: nn.Module) -> list[Layer]:
    return [module for module in network.modules() if isinstance(module, Layer)]


def test_sizes_change_by_strided_convolutions_and_nothing_is_pooled_or_dense() -> None:
    task = made()
    kinds = [type(module).__name__ for module in task.modules()]
    assert not any("Pool" in kind or "Linear" in kind or "Upsample" in kind for kind in kinds)
    up, down = ([layer.conv for layer in layers(network)] for network in (task.generator, task.discriminator))
    assert all(isinstance(conv, nn.ConvTranspose2d) for conv in up)
    assert all(isinstance(conv, nn.Conv2d) for conv in down)
    assert [conv.stride[0] for conv in up] == [1, 2, 2, 2, 2]
    assert [conv.stride[0] for conv in down] == [2, 2, 2, 2]
    assert [conv.out_channels for conv in up] == [256, 128, 64, 32, 3]
    assert [conv.out_channels for conv in down] == [32, 64, 128, 256]


def test_all_is_normalised_but_the_generators_output_and_the_discriminators_input() -> None:
    task = made()
    up, down = ([layer.norm for layer in layers(network)] for network in (task.generator, task.discriminator))
    assert [isinstance(norm, BatchNorm) for norm in up] == [True, True, True, True, False]
    assert [isinstance(norm, BatchNorm) for norm in down] == [False, True, True, True]


def test_activations() -> None:
    task = made()
    up, down = ([layer.act for layer in layers(network)] for network in (task.generator, task.discriminator))
    assert all(isinstance(act, nn.ReLU) for act in up[:-1])
    assert isinstance(up[-1], nn.Tanh)
    assert all(isinstance(act, nn.LeakyReLU) and act.negative_slope == 0.2 for act in down)


def test_weights_start_with_a_deviation_of_a_fiftieth() -> None:
    for network in (made().generator, made().discriminator):
        weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
        every = torch.cat([weight.detach().flatten() for weight in weights])
        assert every.std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(every.mean().item()) < 0.001
        assert all(weight.std().item() == pytest.approx(0.02, rel=0.05) for weight in weights if weight.numel() > 5000)


def test_noise_has_a_hundred_numbers_and_the_optimizer_forgets_fast() -> None:
    assert Convolutional().latent_dim == 100
    for stage in (*load("dcgan").stages, *load("dcgan").smoke):
        for optim in (stage.train.optim, *stage.train.players.values()):
            assert isinstance(optim, OptimConfig)
            assert (optim.name, optim.beta1) == ("adam", 0.5)


def test_kernels_divide_by_their_stride() -> None:
    for network in (made().generator, made().discriminator):
        for layer in layers(network):
            assert layer.conv.kernel_size[0] % layer.conv.stride[0] == 0
    with pytest.raises(ValueError, match="kernel 5 does not divide by the stride of 2, which draws checkerboards; use 6"):
        Convolutional(kernel=5)


def test_a_kernel_that_divides_by_its_stride_draws_less_of_a_checkerboard() -> None:
    found = {}
    for kernel in (3, 4, 5, 6):
        torch.manual_seed(0)
        pictures = [ConvGenerator(20, 3, 32, 32, kernel)(torch.randn(16, 20), torch.ones(16, dtype=torch.bool)) for _ in range(4)]
        found[kernel] = checkerboard(torch.cat([picture.atanh().detach() for picture in pictures], 1)).item()
    assert max(found[4], found[6]) < 0.6 * min(found[3], found[5])


@pytest.mark.parametrize("kernel", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("side", [8, 10, 14, 28, 32])
def test_every_kernel_and_size_gives_pictures_of_the_asked_size(side: int, kernel: int) -> None:
    generator, discriminator = ConvGenerator(5, 1, side, 4, kernel), ConvDiscriminator(1, side, 4, kernel)
    picture = generator(torch.randn(3, 5), torch.ones(3, dtype=torch.bool))
    assert picture.shape == (3, 1, side, side)
    assert discriminator(picture, torch.ones(3, dtype=torch.bool)).shape == (3, 1)


@pytest.mark.parametrize(("side", "expected"), [(8, (4, 1)), (16, (4, 2)), (64, (4, 4)), (28, (7, 2)), (10, (5, 1)), (48, (6, 3))])
def test_halvings(side: int, expected: tuple[int, int]) -> None:
    assert halvings(side) == expected


@pytest.mark.parametrize(("side", "fitting"), [(18, 16), (4, 8), (36, 32), (100, 96), (33, 32)])
def test_other_sizes_are_refused_with_the_nearest_that_fits(side: int, fitting: int) -> None:
    with pytest.raises(ValueError, match=f"image_size {side} is not 4, 5, 6 or 7 doubled at least once.*use {fitting}$"):
        halvings(side)


def test_data_and_fakes_are_normalised_apart() -> None:
    """Each normalisation of a discriminator's turn sees one kind alone: data are marked by a picture of ones, fakes by what the generator makes."""
    data = DataSpec(channels=1, image_size=16)
    task, batch = made(Convolutional(latent_dim=6, width=8), data), companions.example(made(Convolutional(latent_dim=6, width=8), data), 8)
    batch = {**batch, "image": torch.ones_like(batch["image"]) + 0.01 * batch["image"]}
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in task.discriminator.modules():
        if isinstance(module, BatchNorm):
            module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    real, fake, *_ = task.discriminator_logits(batch, Step(0, 10))
    assert len(seen) == 2
    for pure, (given, normal) in zip((real, fake), seen, strict=True):
        expected = layers(task.discriminator)[1].conv(layers(task.discriminator)[0](pure))
        torch.testing.assert_close(given, expected)  # so many rows, and of this kind only
        torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(16), atol=1e-4, rtol=0)


def test_a_generated_picture_is_of_running_statistics_once_trained() -> None:
    task, batch = made(Convolutional(latent_dim=6, width=8), DataSpec(channels=1, image_size=16)), None
    batch = companions.example(task, 8)
    for index in range(3):
        task.loss("generator", batch, Step(index, 3))
    running = [module.running_var for module in task.generator.modules() if isinstance(module, BatchNorm)]
    assert all(not torch.equal(value, torch.ones_like(value)) for value in running)
    alone, among = task.eval().generate(seed=[7]), task.generate(seed=[1, 7, 9])
    torch.testing.assert_close(alone[0], among[1])
