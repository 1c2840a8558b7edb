"""The Wasserstein GAN: what its critic is, what it lowers, and what it measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from genlib import checkpoint, companions, random
from genlib.data.source import open_source
from genlib.data.transforms.vectors import VectorShape
from genlib.functional.adversarial import gradient_norm, interpolates
from genlib.models.adversarial.dcgan import ConvDiscriminator
from genlib.models.adversarial.gan import Dense
from genlib.models.adversarial.wgan_gp import WGANGP, ConvolutionalCritic, DenseWGANGPConfig, Penalised, WGANGPConfig
from genlib.nn.batch_norm import BatchNorm
from genlib.registry import load
from genlib.types import DataSpec, Step
from tests.models.stages import train_stage

PIXELS, POINTS = DataSpec(channels=1, image_size=16), DataSpec(vector_size=3)
SMALL = ConvolutionalCritic(latent_dim=6, width=8)


def made(config: WGANGPConfig | DenseWGANGPConfig, data: DataSpec) -> WGANGP:
    torch.manual_seed(0)
    return config.build(data, {})


def test_the_defaults_are_the_papers() -> None:
    assert (Penalised().penalty, Penalised().n_critic) == (10, 5)
    for recipe in ("wgan_gp", "wgan_gp_points"):
        (stage,) = load(recipe).stages
        assert all(optim.name == "adam" for optim in (stage.train.optim, *stage.train.players.values()))


def test_the_generator_is_normalised_over_the_batch_and_the_critic_is_not() -> None:
    task = made(WGANGPConfig(network=SMALL), PIXELS)
    assert any(isinstance(module, BatchNorm) for module in task.generator.modules())
    assert not any(isinstance(module, BatchNorm | nn.BatchNorm2d) for module in task.discriminator.modules())


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalised(ConvolutionalCritic):
    """Networks whose critic breaks the rule."""

    def discriminator(self, shape: VectorShape, condition: int = 0) -> nn.Module:
        return ConvDiscriminator(shape.sides[0], shape.image_size, self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalisedByPyTorch(Dense):
    """The same with PyTorch's own layer."""

    def discriminator(self, shape: VectorShape, condition: int = 0) -> nn.Module:
        return nn.Sequential(nn.Linear(shape.size, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


def test_a_critic_with_batch_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the critic's layer layers.1.norm normalises over the batch.*take layer or group normalisation, or none"):
        made(WGANGPConfig(network=Normalised(latent_dim=6, width=8)), PIXELS)
    with pytest.raises(ValueError, match="the critic's layer 1 normalises over the batch"):
        made(DenseWGANGPConfig(network=NormalisedByPyTorch()), POINTS)


@pytest.mark.parametrize("penalty", [10.0, 2.5])
def test_the_critics_loss_is_the_papers(penalty: float) -> None:
    task = made(DenseWGANGPConfig(network=Dense(latent_dim=4, width=16), game=Penalised(penalty=penalty)), POINTS)
    batch, step = companions.example(task, 8), Step(0, 10, seed=5)
    real, fake, *_ = task.discriminator_logits(batch, step)
    share = random.uniform(batch["position"], (1,), seed=5, stream="interpolates")
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    slope = torch.autograd.grad(task.discriminator(mixed).sum(), mixed)[0]
    critic = task.discriminator
    expected = critic(fake)[:, 0] - critic(real)[:, 0] + penalty * (slope.norm(dim=1) - 1).square()
    loss, metrics = task.loss("discriminator", batch, step)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["wasserstein"], (critic(real) - critic(fake))[:, 0] * task.scale)
    torch.testing.assert_close(task.loss("generator", batch, step)[0], -task.generator_logits(batch, step)[:, 0])


def test_zero3_is_refused_before_the_run(tmp_path: Path) -> None:
    stage = load("wgan_gp").smoke[0]
    with pytest.raises(ValueError, match=r"WGANGP cannot train under zero3: its gradient penalty goes back through the critic twice.*use zero2"):
        train_stage("wgan_gp", stage, tmp_path, {}, strategy="zero3")
    assert not list(tmp_path.glob("checkpoints/step_*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_between_data_and_fakes_the_trained_critic_has_slope_one(tmp_path: Path, seed: int) -> None:
    (stage,) = load("wgan_gp_points").stages
    train = replace(stage.train, steps=1500, seed=seed, evaluate_every_steps=0, checkpoint_every_steps=0)
    stage = replace(stage, task=replace(stage.task, game=Penalised()), train=train)
    task = checkpoint.load_task(train_stage("wgan_gp_points", stage, tmp_path, {}), ema=False)
    assert isinstance(task, WGANGP)
    batch = next(open_source(stage.data).batches("validation", 2048, transform=task.transform(train=False)))
    real, fake, *_ = task.discriminator_logits(batch, Step(0, 1, seed=9))
    share = torch.rand(2048, generator=torch.Generator().manual_seed(3))
    assert 0.9 < gradient_norm(task.discriminator, interpolates(real, fake, share)).mean().item() < 1.1
