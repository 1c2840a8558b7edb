"""ProGAN: progressive growing of GANs (Karras et al. 2018, arXiv:1710.10196).

Both players start at 4 x 4 pixels. Each time that a resolution has been learnt the next one fades in: its share in the image and in what the
critic sees goes from 0 to 1, so that the layers before are not thrown off by new ones; data are shown with the same detail. The critic's game is that
of WGAN-GP, with a small price on how far its scores of data drift from 0, which nothing else holds. All weights start at N(0, 1) and are scaled where
they are used, so that Adam moves them at one rate; the generator brings each pixel's features to one length after each convolution; and the critic
is told how unlike the samples of a group are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from genlib.config import Config, DataConfig, OptimConfig, TaskConfig, TrainConfig, limited, tunable
from genlib.data.transforms.plain import PlainTransform
from genlib.data.transforms.vectors import VectorShape
from genlib.functional.resampling import BOX
from genlib.models.adversarial.base.equalized import GAIN, EqualizedConv, EqualizedLinear, activated, pixel_norm
from genlib.models.adversarial.base.growing import Growing, GrowingPlayers, Growth, doubled, faded
from genlib.models.adversarial.base.growing_discriminator import GrowingDiscriminator
from genlib.models.adversarial.base.resolutions import SMALLEST, channels_of, sides
from genlib.models.adversarial.wgan_gp import NO_ZERO3, WGANGP, Penalised
from genlib.models.base.health import Health
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class ProNetworks(Config):
    """Generator and critic, on images whose side is a power of two."""

    member: ClassVar[str] = "image"

    image_size: int = limited(0, at_least=0)
    """Pixels a side; 0 is the data's own."""
    latent_dim: int = limited(512, at_least=1)
    """Numbers that a picture is made from."""
    channel_base: int = limited(16384, at_least=1)
    """Channels of a resolution times its side."""
    channel_max: int = limited(512, at_least=1)
    """Most channels of any resolution."""
    stddev_group: int = limited(4, at_least=1)
    """Samples whose standard deviation the critic is told; 1 is without. All of its 16 in the paper."""
    growing: Growing = field(default_factory=Growing)
    """When resolutions are added."""

    def shape(self, data: DataSpec) -> VectorShape:
        if not (self.image_size or data.image_size):
            raise ValueError(
                "ProGAN needs images of one size, and the samples have none: give --data.image-size, a power of two, or a set such as icons"
            )
        shape = VectorShape.of(data, self.image_size)
        Growth(self.growing, shape.image_size)
        return shape

    def transform(self, shape: VectorShape) -> PlainTransform:
        return PlainTransform(shape.image_size)

    def generator(self, shape: VectorShape, condition: int = 0) -> ProGenerator:
        growth = Growth(self.growing, shape.image_size)
        return ProGenerator(growth, self.latent_dim + condition, shape.sides[0], self.channel_base, self.channel_max)

    def discriminator(self, shape: VectorShape, condition: int = 0) -> GrowingDiscriminator:
        growth = Growth(self.growing, shape.image_size)
        return GrowingDiscriminator(
            growth, shape.sides[0], self.channel_base, self.channel_max, classes=condition, group=self.stddev_group
        )  # fmt: skip


class FirstBlock(nn.Module):
    """noise (B, latent) -> (B, outputs, 4, 4)."""

    def __init__(self, latent: int, outputs: int) -> None:
        super().__init__()
        self.fc = EqualizedLinear(latent, outputs * SMALLEST**2, bias=None)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.conv = EqualizedConv(outputs, outputs, 3, activation="lrelu")

    def forward(self, noise: Tensor) -> Tensor:
        """See the class."""
        x = self.fc(pixel_norm(noise)).unflatten(1, (-1, SMALLEST, SMALLEST))
        x = activated((x + self.bias.to(x.dtype).view(-1, 1, 1)) * GAIN)
        return pixel_norm(self.conv(pixel_norm(x)))


class DoublingBlock(nn.Module):
    """(B, inputs, side / 2, side / 2) -> (B, outputs, side, side)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = EqualizedConv(inputs, outputs, 3, activation="lrelu", up=2, taps=BOX)
        self.conv1 = EqualizedConv(outputs, outputs, 3, activation="lrelu")

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return pixel_norm(self.conv1(pixel_norm(self.conv0(x))))


class ProGenerator(nn.Module):
    """noise (B, latent) -> images (B, channels, size, size) float32, of about [-1, 1], with as much detail as has grown by now."""

    def __init__(self, growth: Growth, latent: int, channels: int, base: int, most: int) -> None:
        super().__init__()
        self.growth, width = growth, partial(channels_of, base=base, most=most)
        self.b4, self.doublings = FirstBlock(latent, width(SMALLEST)), sides(growth.sides[-1])[1:]
        for side in self.doublings:
            self.add_module(f"b{side}", DoublingBlock(width(side // 2), width(side)))
        for side in growth.sides:
            self.add_module(f"torgb{side}", EqualizedConv(width(side), channels, 1))

    def forward(self, noise: Tensor, valid: Tensor | None = None, *condition: Tensor) -> Tensor:
        """See the class. It looks at each row alone, so it does not ask which are `valid`."""
        return self.growth.whole(self.drawn(torch.cat([noise, *condition], 1), *self.growth.place))

    def drawn(self, noise: Tensor, side: int, share: float) -> Tensor:
        """Images (B, channels, side, side) of which the newest resolution has such a share."""
        before = x = self.b4(noise)
        for at in (at for at in self.doublings if at <= side):
            before, x = x, self.get_submodule(f"b{at}")(x)
        image = self.get_submodule(f"torgb{side}")(x)
        if share < 1:
            image = faded(doubled(self.get_submodule(f"torgb{side // 2}")(before)), image, share)
        return image.float()


@dataclass(frozen=True, kw_only=True, slots=True)
class Drifting(Penalised):
    """How the players are scored."""

    n_critic: int = tunable(1, low=1, high=5, at_least=1)
    """Updates of the critic for each one of the generator; a step of training is one of the critic."""
    drift: float = limited(0.001, at_least=0)
    """Weight of the squared scores of data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProGANConfig(TaskConfig):
    """The networks and the game."""

    network: ProNetworks = field(default_factory=ProNetworks)
    """Both players."""
    game: Drifting = field(default_factory=Drifting)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image",)
    zero3_refusal: ClassVar[str] = NO_ZERO3

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> ProGAN:
        return ProGAN(self.network, self.game, self.health, data)


class ProGAN(GrowingPlayers, WGANGP):
    """The task."""

    game: Drifting
    averaged = ("generator",)

    def critic_loss(self, real: Tensor, fake: Tensor, on_real: Tensor, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        held, values = super().critic_loss(real, fake, on_real, batch, step)
        return held + self.game.drift * on_real[:, 0].square(), {**values, **self.growth_values()}


ADAM = OptimConfig(name="adam", learning_rate=1e-3, beta1=0.0, beta2=0.99)
"""Of both players (appendix A.1)."""


def progan() -> Recipe:
    """Icons of 32 x 32 pixels, from 4 x 4 on.

    `python jobs/train.py progan`. About two thirds of the pictures have an icon's strokes and outlines, few a meaning; sliced Wasserstein distance of
    patches 0.076, coverage 0.34 of an unseen family of icons. By a SimCLR of 200 steps, against the icons it learns from, FID falls from 7.0 after
    992 images to 0.70 after 64,000, with precision 0.86 and recall 0.44 (1,000 pictures); 570 CPU-seconds.
    """
    growing = Growing(stable_samples=6_000, fade_samples=6_000)
    network = ProNetworks(latent_dim=128, channel_base=512, channel_max=128, growing=growing)
    optim = replace(ADAM, learning_rate=2e-3)
    train = TrainConfig(
        steps=4000, global_batch=16, optim=optim, players={"discriminator": optim}, ema_halflife_samples=4000, evaluate_every_steps=1000
    )  # fmt: skip
    data = DataConfig(train="icons", image_size=32)
    small = Growing(stable_samples=16, fade_samples=24)
    tiny = ProNetworks(latent_dim=8, channel_base=64, channel_max=8, stddev_group=8, growing=small)
    short = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=ADAM)
    return Recipe(
        stages=(Stage(task=ProGANConfig(network=network), data=data, train=train),),
        smoke=(Stage(task=ProGANConfig(network=tiny), data=DataConfig(train="digits", image_size=16), train=short),),
    )


def progan_1024() -> Recipe:
    """Images of 1,024 x 1,024 pixels, 23,079,115 and 23,087,249 parameters, for GPUs; not yet trained here.

    `python jobs/train.py progan_1024 --workers 8 --train.strategy ddp --data.train 'shards/{00000..00099}.tar'`. Of the paper but for its batches,
    which are smaller from 256 pixels on.
    """
    network = ProNetworks(stddev_group=16)
    # the average's decay of 0.999 a step of 16 samples goes half of the way in 11,000
    train = TrainConfig(steps=750_000, global_batch=16, optim=ADAM, ema_halflife_samples=11_000, checkpoint_every_steps=5000)
    return Recipe(stages=(Stage(task=ProGANConfig(network=network), data=DataConfig(image_size=1024), train=train),), smoke=progan().smoke)
