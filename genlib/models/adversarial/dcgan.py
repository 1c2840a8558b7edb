"""Deep convolutional GAN (Radford et al. 2016, arXiv:1511.06434).

Its rules: strided convolutions instead of pooling, transposed ones in the generator, and no dense layers; batch normalisation everywhere but
at the generator's output and the discriminator's input; ReLU and at the end tanh in the generator, LeakyReLU of slope 0.2 in the discriminator;
weights that start at N(0, 0.02); Adam with a first decay of 0.5. And kernels of a size that divides by the stride, so that every pixel is a sum of
as many terms as its neighbours (Odena et al. 2016, doi:10.23915/distill.00003), for which the paper's 5 x 5 become 4 x 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.config import Config, DataConfig, OptimConfig, TaskConfig, TrainConfig, limited, tunable
from genlib.data.transforms.plain import PlainTransform
from genlib.data.transforms.vectors import VectorShape
from genlib.models.adversarial.base.latent_arithmetic import LatentArithmetic
from genlib.models.adversarial.gan import GAN, LEAK, Game, Joint
from genlib.models.base.health import Health
from genlib.nn.batch_norm import BatchNorm
from genlib.nn.minibatch_discrimination import MinibatchDiscrimination
from genlib.ports import Features, Image
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import DataSpec

STRIDE, START_STD, POOLED = 2, 0.02, 4
"""Of every layer that changes the size; of the first weights; pixels a side to which features are pooled (section 5.1)."""
_SMALLEST, _LARGEST = 4, 7


def halvings(side: int) -> tuple[int, int]:
    """Pixels a side of the smallest map, 4 to 7, and how often it is doubled. ValueError where the side is no such number times a power of two."""
    start, depth = side, 0
    while start > _LARGEST and start % STRIDE == 0:
        start, depth = start // STRIDE, depth + 1
    if depth and _SMALLEST <= start <= _LARGEST:
        return start, depth
    fitting = min((base * STRIDE**power for base in range(_SMALLEST, _LARGEST + 1) for power in range(1, 12)), key=lambda one: abs(one - side))
    raise ValueError(f"image_size {side} is not 4, 5, 6 or 7 doubled at least once, as strided convolutions need; use {fitting}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Convolutional(Config):
    """Networks of convolutions, on images."""

    member: ClassVar[str] = "image"

    image_size: int = limited(0, at_least=0)
    """Pixels a side; 0 is the data's own."""
    latent_dim: int = limited(100, at_least=1)
    """Numbers that a picture is made from."""
    width: int = tunable(64, low=16, high=128, log=True, at_least=1)
    """Channels at half the size; each further halving doubles them."""
    kernel: int = limited(4, at_least=2)
    """Pixels a side of the kernels that change the size; it must divide by the stride of 2."""
    minibatch_kernels: int = limited(0, at_least=0)
    """Numbers by which the discriminator sees how alike the samples of a batch are, by minibatch discrimination; 0 is without."""

    def validate(self) -> None:
        if self.kernel % STRIDE:
            raise ValueError(f"kernel {self.kernel} does not divide by the stride of {STRIDE}, which draws checkerboards; use {self.kernel + 1}")

    def shape(self, data: DataSpec) -> VectorShape:
        if not (self.image_size or data.image_size):
            raise ValueError(
                "convolutions need images of one size, and the samples have none: give --data.image-size, take a set such as digits or shapes, "
                "or for vectors the recipe gan"
            )
        shape = VectorShape.of(data, self.image_size)
        halvings(shape.image_size)
        return shape

    def transform(self, shape: VectorShape) -> PlainTransform:
        return PlainTransform(shape.image_size)

    def generator(self, shape: VectorShape, condition: int = 0) -> nn.Module:
        return ConvGenerator(self.latent_dim + condition, shape.sides[0], shape.image_size, self.width, self.kernel)

    def discriminator(self, shape: VectorShape, condition: int = 0, outputs: int = 1) -> nn.Module:
        return self.convolutions(shape, condition, outputs, normalised=True)

    def convolutions(self, shape: VectorShape, condition: int, outputs: int, *, normalised: bool) -> ConvDiscriminator:
        """The discriminator with batch normalisation or without."""
        kernels = self.minibatch_kernels
        return ConvDiscriminator(
            shape.sides[0], shape.image_size, self.width, self.kernel, condition, outputs=outputs, kernels=kernels, normalised=normalised
        )


class Layer(nn.Module):
    """A convolution, maybe a batch normalisation, an activation."""

    def __init__(self, conv: nn.Module, norm: BatchNorm | None, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, act

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'); `valid` as of `BatchNorm`."""
        x = self.conv(x)
        return self.act(x if self.norm is None else self.norm(x, valid))


class ConvGenerator(nn.Module):
    """noise, and beside it what it is told, (B, latent) together -> pictures (B, channels, side, side) in [-1, 1]."""

    def __init__(self, latent: int, channels: int, side: int, width: int, kernel: int = 4) -> None:
        super().__init__()
        start, depth = halvings(side)
        widths = [width * 2**i for i in reversed(range(depth))]
        layers = [Layer(nn.ConvTranspose2d(latent, widths[0], start, bias=False), BatchNorm(widths[0]), nn.ReLU())]
        for a, b in pairwise(widths):
            layers.append(Layer(_doubling(a, b, kernel, bias=False), BatchNorm(b), nn.ReLU()))
        self.layers = nn.ModuleList([*layers, Layer(_doubling(widths[-1], channels, kernel), None, nn.Tanh())])
        self.apply(start_small)

    def forward(self, noise: Tensor, valid: Tensor | None = None, *condition: Tensor) -> Tensor:
        """See the class; `valid` as of `BatchNorm`."""
        x = torch.cat([noise, *condition], 1)[:, :, None, None]
        for layer in self.layers:
            x = layer(x, valid)
        return x.float()


class ConvDiscriminator(nn.Module):
    """pictures (B, channels, side, side) in [-1, 1] -> logits (B, outputs). Not `normalised`, it is a critic, whose weights start as PyTorch's do.

    What it is told, (B, condition), joins at the smallest map.
    """

    def __init__(
        self, channels: int, side: int, width: int, kernel: int = 4, condition: int = 0, *,
        outputs: int = 1, kernels: int = 0, normalised: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        start, depth = halvings(side)
        widths = [channels, *(width * 2**i for i in range(depth))]
        layers = []
        for i, (a, b) in enumerate(pairwise(widths)):
            norm = BatchNorm(b) if normalised and i else None
            layers.append(Layer(nn.Conv2d(a, b, kernel, STRIDE, (kernel - 1) // 2, bias=norm is None), norm, nn.LeakyReLU(LEAK)))
        end, seen = widths[-1], widths[-1] + kernels
        self.layers, self.last = nn.ModuleList(layers), nn.Conv2d(end if condition else seen, outputs, start)
        self.compare = MinibatchDiscrimination(end * start * start, kernels) if kernels else None
        norm = BatchNorm(end) if normalised else None
        self.joint = Joint(nn.Conv2d(seen, end, 1, bias=norm is None), condition, end, norm) if condition else None
        if normalised:
            self.apply(start_small)

    def forward(self, image: Tensor, valid: Tensor | None = None, *condition: Tensor) -> Tensor:
        """See the class; `valid` as of `BatchNorm`."""
        x = image
        for layer in self.layers:
            x = layer(x, valid)
        x = self.compare(x, valid) if self.compare else x
        return self.last(self.joint(x, valid, *condition) if self.joint else x).flatten(1).float()

    def features(self, image: Tensor) -> Tensor:
        """Every layer's map, its largest values on a grid of at most 4 x 4, (B, F): what the paper gives a linear classifier (section 5.1)."""
        x, found = image, []
        for layer in self.layers:
            x = layer(x)
            found.append(F.adaptive_max_pool2d(x, min(POOLED, x.shape[-1])).flatten(1))
        return torch.cat(found, 1).float()


def _doubling(a: int, b: int, kernel: int, *, bias: bool = True) -> nn.ConvTranspose2d:
    """A transposed convolution to exactly twice the size, also of an odd kernel."""
    return nn.ConvTranspose2d(a, b, kernel, STRIDE, (kernel - 1) // 2, kernel % 2, bias=bias)


def start_small(module: nn.Module) -> None:
    """Convolutions from N(0, 0.02), without biases."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, START_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class DCGANConfig(TaskConfig):
    """The game with convolutional networks."""

    network: Convolutional = field(default_factory=Convolutional)
    """Both players."""
    game: Game = field(default_factory=Game)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> DCGAN:
        return DCGAN(self.network, self.game, self.health, data)


class ConvGAN(GAN):
    """The task with convolutional networks, whatever they are told."""

    @action
    @torch.no_grad()
    def embed(self, *, image: Image) -> Features:
        """Features (B, F) that the discriminator's layers see in images (B, C, side, side) in [0, 1].

        They are those of `ConvDiscriminator.features`.
        """
        return self.discriminator.features(self.fitting(image))  # type: ignore[operator]

    def fitting(self, image: Tensor) -> Tensor:
        """Images in [0, 1] as the discriminator sees them. ValueError where they are of another shape."""
        if tuple(image.shape[1:]) != self.shape.sides:
            raise ValueError(
                f"images of shape {tuple(image.shape[1:])} are given, and the discriminator knows {self.shape.sides}; scale or convert them"
            )
        return self.real({"image": image.to(self.device)})


class DCGAN(LatentArithmetic, ConvGAN):
    """The task with convolutional networks."""


def dcgan() -> Recipe:
    """Handwritten digits of 16 x 16 pixels, from noise.

    `python jobs/train.py dcgan`. A person reads most of the digits; sliced Wasserstein distance of patches 0.037, coverage 0.62, all ten classes; 93
    CPU-seconds.
    """
    fast, slow = (OptimConfig(name="adam", learning_rate=rate, beta1=0.5, schedule="cosine") for rate in (1e-3, 4e-4))
    train = TrainConfig(steps=2500, global_batch=64, optim=fast, players={"discriminator": slow}, ema_halflife_samples=4000, evaluate_every_steps=500)
    task = DCGANConfig(network=Convolutional(width=32), game=Game(label_smoothing=0.1))
    same = OptimConfig(name="adam", learning_rate=5e-4, beta1=0.5)
    small = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=same, players={"discriminator": same})
    return Recipe(
        stages=(Stage(task=task, data=DataConfig(train="digits", image_size=16), train=train),),
        smoke=(Stage(task=DCGANConfig(network=Convolutional(latent_dim=8, width=8)), data=DataConfig(train="digits", image_size=16), train=small),),
    )
