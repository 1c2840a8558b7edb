"""The settings of StyleGAN: its networks and its game."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from genlib.config import Config, limited, tunable
from genlib.data.transforms.plain import PlainTransform
from genlib.data.transforms.vectors import VectorShape
from genlib.functional.resampling import BINOMIAL
from genlib.models.adversarial.base.growing import Growing, Growth
from genlib.models.adversarial.base.growing_discriminator import GrowingDiscriminator
from genlib.models.adversarial.base.resolutions import sides
from genlib.models.adversarial.stylegan.discriminator import StyleDiscriminator
from genlib.models.adversarial.stylegan.generator import Generator
from genlib.models.adversarial.stylegan.mapping import Mapping
from genlib.models.adversarial.stylegan.synthesis1 import Synthesis1
from genlib.models.adversarial.stylegan.synthesis2 import Synthesis2
from genlib.models.adversarial.stylegan.synthesis3 import AliasFree, Synthesis3
from genlib.types import DataSpec

MAPPING_LAYERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleNetworks(Config):
    """Generator and discriminator, on images whose side is a power of two."""

    member: ClassVar[str] = "image"

    image_size: int = limited(0, at_least=0)
    """Pixels a side; 0 is the data's own."""
    latent_dim: int = limited(512, at_least=1)
    """Numbers that a picture is made from."""
    style_dim: int = limited(512, at_least=1)
    """Numbers of a style, w."""
    mapping_layers: int = limited(MAPPING_LAYERS, at_least=1)
    """Layers from noise to style."""
    channel_base: int = limited(16384, at_least=1)
    """Channels of a resolution times its side; 32,768 in the paper, 16,384 for its 256 pixels."""
    channel_max: int = limited(512, at_least=1)
    """Most channels of any resolution."""
    synthesis: Literal["stylegan1", "stylegan2", "stylegan3"] = "stylegan2"
    """From styles to images: stylegan1 normalises each layer's maps and grows, against a discriminator that grows; stylegan3 lets no layer alias, so
    that what it draws moves as a whole; then two mapping layers are usual."""
    growing: Growing = field(default_factory=lambda: Growing(first_size=8, stable_samples=600_000, fade_samples=600_000))
    """When stylegan1 adds resolutions; by default as in the paper."""
    alias_free: AliasFree = field(default_factory=AliasFree)
    """The design of stylegan3's layers: as it stands configuration T."""
    layer_noise: bool = True
    """Whether layers add noise, of stylegan1 and 2. Without, nothing but the style makes images differ, which short runs learn from faster."""
    stddev_group: int = limited(4, at_least=1)
    """Samples whose standard deviation the discriminator is told; 1 is without."""
    bf16_resolutions: int = limited(0, at_least=0)
    """How many of the largest resolutions compute in bf16, clamped at 256, whatever train.precision is; 4 in the published code (there fp16)."""

    def shape(self, data: DataSpec) -> VectorShape:
        if not (self.image_size or data.image_size):
            raise ValueError(
                "StyleGAN needs images of one size, and the samples have none: give --data.image-size, a power of two, or a set such as icons"
            )
        shape = VectorShape.of(data, self.image_size)
        sides(shape.image_size)
        if self.synthesis == "stylegan1":
            self.growth(shape)
        return shape

    def growth(self, shape: VectorShape) -> Growth:
        """Of stylegan1 before the first step."""
        return Growth(self.growing, shape.image_size)

    def transform(self, shape: VectorShape) -> PlainTransform:
        return PlainTransform(shape.image_size)

    def generator(self, shape: VectorShape, condition: int = 0) -> Generator:
        mapping = Mapping(self.latent_dim, self.style_dim, self.mapping_layers, condition)
        sizes = (shape.sides[0], self.style_dim, self.channel_base, self.channel_max, self.bf16_resolutions)
        if self.synthesis == "stylegan1":
            return Generator(mapping, Synthesis1(self.growth(shape), *sizes, noise=self.layer_noise))
        if self.synthesis == "stylegan2":
            return Generator(mapping, Synthesis2(shape.image_size, *sizes, noise=self.layer_noise))
        return Generator(mapping, Synthesis3(shape.image_size, *sizes, self.alias_free))

    def discriminator(self, shape: VectorShape, condition: int = 0) -> StyleDiscriminator | GrowingDiscriminator:
        sizes = (shape.sides[0], self.channel_base, self.channel_max)
        kind = {"classes": condition, "low": self.bf16_resolutions, "group": self.stddev_group}
        if self.synthesis == "stylegan1":
            return GrowingDiscriminator(self.growth(shape), *sizes, taps=BINOMIAL, **kind)
        return StyleDiscriminator(shape.image_size, *sizes, **kind)


AugmentChanges = Literal["blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleGame(Config):
    """How the players are scored."""

    loss: Literal["non_saturating", "relativistic"] = "non_saturating"
    """relativistic compares each sample with a fake beside it (R3GAN), which needs both penalties at every step."""
    gamma: float = tunable(1.0, low=0.01, high=100.0, log=True, at_least=0)
    """Weight of half the squared gradient of the discriminator at data, R1."""
    penalise_fakes: bool = False
    """The same at fakes, R2."""
    penalty_every: int = limited(16, at_least=1)
    """Steps from one of these penalties to the next."""
    path_weight: float = tunable(2.0, low=0.1, high=10.0, log=True, at_least=0)
    """Weight of the path lengths' variance; 0 is without."""
    path_every: int = limited(4, at_least=1)
    """Steps from one look at path lengths to the next."""
    path_share: int = limited(2, at_least=1)
    """One of so many samples of a batch has its path length looked at."""
    style_mixing: float = limited(0.9, at_least=0, at_most=1)
    """Share of the fakes that get the styles of two noises, one for the layers up to some, the other for the rest."""
    augment: Literal["none", "ada", "diff"] = "none"
    """Of what the discriminator sees: ada as strongly as it overfits, for small sets (arXiv:2006.06676), diff always (arXiv:2006.10738)."""
    augment_changes: AugmentChanges = "bgc"
    """Which changes ada makes, by the names of its published code."""
    augment_target: float = tunable(0.6, low=0.3, high=0.8, at_least=0, at_most=1)
    """Mean sign of the discriminator's logits on data that ada steers to."""
    augment_images: int = limited(500_000, at_least=1)
    """Images in which ada's strength can go from 0 to 1."""
    mirror: bool = False
    """Half of the images are seen from behind, left and right exchanged."""
