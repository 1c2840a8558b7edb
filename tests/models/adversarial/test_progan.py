"""ProGAN: its published sizes, its layers, and what its players lower."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from genlib import random, registry
from genlib.engine.prefetcher import with_weight
from genlib.functional.adversarial import gradient_norm, interpolates
from genlib.models.adversarial.base.equalized import GAIN, EqualizedConv, EqualizedLinear, pixel_norm
from genlib.models.adversarial.base.growing import Growing, doubled
from genlib.models.adversarial.progan import Drifting, ProGAN, ProGANConfig, ProNetworks
from genlib.models.base.health import Health
from genlib.types import Batch, DataSpec, Step
from jobs.command_form import Command
from jobs.plan import planned
from jobs.run_options import RunOptions
from tests.models.stages import built_on_meta

DATA, STEP = DataSpec(channels=1, image_size=16), Step(0, 10, seed=3)
NETWORKS = ProNetworks(latent_dim=16, channel_base=512, channel_max=32, growing=Growing(stable_samples=100, fade_samples=50))


def made(samples: int = 0, game: Drifting | None = None) -> ProGAN:
    torch.manual_seed(0)
    task = ProGAN(NETWORKS, game or Drifting(), Health(), DATA)
    task.growth.samples.fill_(samples)
    return task


def batch(rows: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(rows, dtype=torch.bool)
    return with_weight({"image": torch.rand(rows, 1, 16, 16, generator=generator), "position": torch.arange(rows), "valid": valid}, rows)


def parameters(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_the_paper_has_these_parameters() -> None:
    """What tkarras/progressive_growing_of_gans prints of its networks for 1,024 pixels: 23.1 million each (table 2)."""
    task = built_on_meta("progan_1024")["train"]
    assert parameters(task.generator) == 23_079_115  # type: ignore[arg-type]
    assert parameters(task.discriminator) == 23_087_249  # type: ignore[arg-type]


def test_the_settings_are_the_papers() -> None:
    (stage,) = registry.load("progan_1024").stages
    assert isinstance(stage.task, ProGANConfig)
    assert (stage.task.game.penalty, stage.task.game.n_critic, stage.task.game.drift) == (10, 1, 0.001)
    growing = stage.task.network.growing
    assert (growing.first_size, growing.stable_samples, growing.fade_samples) == (4, 800_000, 800_000)
    optim = stage.train.optim
    assert (optim.name, optim.learning_rate, optim.beta1, optim.beta2, optim.eps) == ("adam", 1e-3, 0, 0.99, 1e-8)
    assert stage.train.steps * stage.train.global_batch == 12_000_000
    assert 0.5 ** (stage.train.global_batch / stage.train.ema_halflife_samples) == pytest.approx(0.999, abs=1e-5)
    assert ProGAN.averaged == ("generator",)


@pytest.mark.parametrize("side", [8, 16])
def test_images_pass_from_one_resolution_to_the_next_without_a_jump(side: int) -> None:
    network, noise = made().generator, torch.randn(3, 16)
    old, new = network.drawn(noise, side // 2, 1.0), network.drawn(noise, side, 1.0)
    assert new.shape == (3, 1, side, side)
    assert torch.equal(network.drawn(noise, side, 0.0), doubled(old))
    assert torch.allclose(network.drawn(noise, side, 0.25), 0.75 * doubled(old) + 0.25 * new, atol=1e-6)


def test_a_resolution_that_is_there_is_its_own_layers_alone() -> None:
    network, noise = made().generator, torch.randn(3, 16)
    new = network.torgb8(network.b8(network.b4(noise)))  # type: ignore[operator]
    assert torch.equal(network.drawn(noise, 8, 1.0), new)
    network.torgb4.weight.data.fill_(float("nan"))  # type: ignore[union-attr, operator]
    assert torch.equal(network.drawn(noise, 8, 1.0), new)


def test_what_is_drawn_has_the_full_size_at_every_resolution() -> None:
    task = made()
    for samples, side in ((0, 4), (150, 8), (300, 16)):
        task.growth.samples.fill_(samples)
        image = task.generator(task.latents([5, 6]))
        assert image.shape == (2, 1, 16, 16)
        assert torch.allclose(image, F.interpolate(F.avg_pool2d(image, 16 // side), scale_factor=16 // side), atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 512), (4, 32, 8, 8), (4, 7, 1, 1)])
def test_pixel_norm_brings_the_mean_square_to_one(shape: tuple[int, ...]) -> None:
    found = pixel_norm(torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1)
    assert ((found.square().mean(1) - 1).abs() < 1e-4).all()


def test_features_leave_every_convolution_of_the_generator_with_one_length() -> None:
    network = made().generator
    x = network.b4(torch.randn(3, 16))
    for block in (network.b8, network.b16):
        assert ((x.square().mean(1) - 1).abs() < 1e-4).all()
        x = block(x)  # type: ignore[operator]


def test_weights_are_scaled_by_the_root_of_two_over_their_inputs() -> None:
    task = made()
    hidden = [module for module in task.modules() if isinstance(module, EqualizedConv | EqualizedLinear) and module.activation == "lrelu"]
    assert len(hidden) > 10
    for module in hidden:
        assert module.weight_gain * GAIN == pytest.approx(math.sqrt(2 / module.weight[0].numel()))
    weights = torch.cat([module.weight.flatten() for module in hidden])
    assert weights.std().item() == pytest.approx(1, rel=0.02)


def test_adam_moves_all_layers_at_one_rate() -> None:
    task, rates = made(275), {}
    for player in ("generator", "discriminator"):
        task.zero_grad()
        task.loss(player, batch(), STEP)[0].mean().backward()
        weights = {f"{player}.{name}": weight for name, weight in task.player(player).named_parameters() if weight.grad is not None}
        before = {name: weight.detach().clone() for name, weight in weights.items() if weight.dim() > 1 and weight.numel() > 500}
        torch.optim.Adam(weights.values(), 1e-3, betas=(0.0, 0.99)).step()
        rates |= {name: ((weights[name].detach() - old).norm() / old.norm()).item() for name, old in before.items()}
    assert len(rates) == 12
    assert max(rates.values()) / min(rates.values()) < 1.1, rates


def test_the_critic_lowers_the_wasserstein_loss_the_penalty_and_the_drift() -> None:
    task, rows = made(275, Drifting(penalty=4.0, drift=0.5)), batch()
    loss, values = task.loss("discriminator", rows, STEP)
    real, fake, on_real, on_fake = task.discriminator_logits(rows, STEP)
    mixed = interpolates(real, fake, random.uniform(rows["position"], seed=3, stream="interpolates"))
    norm = gradient_norm(lambda x: task.discriminator(x, rows["valid"]), mixed)
    assert torch.allclose(real, task.growth.shown(rows["image"] * 2 - 1))
    assert torch.allclose(loss, (on_fake - on_real)[:, 0] + 4 * (norm - 1).square() + 0.5 * on_real[:, 0].square(), atol=1e-5)
    assert values["resolution"].item() == pytest.approx(12)
    generator, _ = task.loss("generator", rows, STEP)
    assert torch.allclose(generator, -task.generator_logits(rows, STEP)[:, 0])


def test_the_critic_is_told_how_unlike_samples_are() -> None:
    critic, image = made(300).discriminator, torch.randn(1, 1, 16, 16)
    alike, unlike = image.expand(4, -1, -1, -1), torch.cat([image, torch.randn(3, 1, 16, 16)])
    assert not torch.allclose(critic(alike)[0], critic(unlike)[0], atol=1e-4)


def test_a_plan_is_of_all_layers() -> None:
    (stage,) = registry.load("progan").smoke

    def flops(growing: Growing) -> str:
        network = stage.task.network.__class__(latent_dim=8, channel_base=64, channel_max=8, growing=growing)
        one = stage.__class__(task=ProGANConfig(network=network), data=stage.data, train=stage.train)
        return next(line for line in planned(Command("progan", (one,), RunOptions(gpus="2"))).splitlines() if "FLOPs a step" in line)

    assert flops(Growing()) == flops(Growing(first_size=0))


def test_data_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="ProGAN needs images of one size, and the samples have none"):
        ProGANConfig().check_data(DataSpec())
