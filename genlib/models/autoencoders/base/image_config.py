"""Settings of image autoencoders: the network's size, as diffusers names it, and the losses on reconstructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from genlib.config import Config, TaskConfig, limited, tunable
from genlib.nn.patch_discriminator import PatchDiscriminator
from genlib.plurals import counted
from genlib.types import DataSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Discriminator(Config):
    """A second player that tells patches of reconstructions from patches of images."""

    weight: float = tunable(0.0, low=0.0, high=1.0, at_least=0)
    """Weight of the adversarial loss in the autoencoder's; 0 is no discriminator."""
    start_steps: int = limited(0, at_least=0)
    """Steps before which it neither learns nor counts."""
    adaptive: bool = True
    """Multiply the weight by the ratio of the gradients of reconstruction and adversarial loss at the last layer, so that both pull equally."""
    width: int = limited(64, at_least=8)
    """Channels of its first layer, a multiple of 8."""
    layers: int = limited(3, at_least=1)
    """Halvings; the size of a patch."""

    def validate(self) -> None:
        if self.width % 8:
            raise ValueError(f"task.discriminator.width {self.width} is not a multiple of 8; use {self.width // 8 * 8}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageAutoencoderConfig(TaskConfig):
    """The network's size, as diffusers names it, and the losses on reconstructions."""

    image_size: int = limited(0, at_least=0)
    """Pixels a side of training images; 0 is the data's own."""
    latent_channels: int = limited(4, at_least=1)
    """Numbers a latent cell holds."""
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels at each resolution; every one after the first halves the image."""
    layers_per_block: int = limited(2, at_least=1)
    """Residual blocks of each resolution in the encoder; the decoder has one more."""
    norm_groups: int = limited(32, at_least=1)
    """Groups of every normalisation; must divide all channels."""
    attention: bool = True
    """Attention between the two middle blocks."""
    distance: Literal["l1", "l2"] = "l1"
    """Distance of pixels: absolute or squared difference, of images in [-1, 1]."""
    perceptual_weight: float = tunable(1.0, low=0.1, high=3.0, at_least=0)
    """Weight of the distance in features, where there is a network for it: a stage under the role `perceptual`, or `perceptual_file`."""
    perceptual_file: str = ""
    """VGG-16's weights as safetensors, in torchvision's names; LPIPS's channel weights may be in it."""
    discriminator: Discriminator = Discriminator()
    """The patch discriminator."""
    centred: bool = True
    """Subtract the latents' mean before scaling; diffusers' pipelines for Stable Diffusion 1 and 2 know no such shift."""

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def validate(self) -> None:
        for width in self.block_out_channels or (0,):
            if width < 1 or width % self.norm_groups:
                raise ValueError(
                    f"task.block_out_channels {self.block_out_channels}: {width} is no multiple of task.norm_groups {self.norm_groups}; change one"
                )

    @property
    def factor(self) -> int:
        """Pixels a side that a latent cell covers."""
        return 2 ** (len(self.block_out_channels) - 1)

    def check_data(self, data: DataSpec) -> None:
        self.side(data)

    def side(self, data: DataSpec) -> int:
        """Pixels a side of training images. ValueError where there is no such number, or where it does not divide."""
        size = self.image_size or data.image_size
        if not size:
            raise ValueError("the images have many sizes; give one with --data.image-size")
        least = self.factor
        if self.discriminator.weight:
            least = max(least, PatchDiscriminator.smallest_image(self.discriminator.layers))
        if size % self.factor or size < least:
            fitting = max(-(-least // self.factor), size // self.factor) * self.factor
            raise ValueError(
                f"image size {size} does not fit an autoencoder that halves it {counted(len(self.block_out_channels) - 1, 'time')}; use {fitting}, "
                "or another number of task.block_out_channels"
            )
        return size

    def network_options(self, channels: int) -> dict[str, Any]:
        """Arguments that diffusers' autoencoders share."""
        blocks = len(self.block_out_channels)
        return {
            "in_channels": channels, "out_channels": channels, "latent_channels": self.latent_channels, "layers_per_block": self.layers_per_block,
            "block_out_channels": tuple(self.block_out_channels), "norm_num_groups": self.norm_groups, "mid_block_add_attention": self.attention,
            "down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks,
        }  # fmt: skip

    def network(self, channels: int) -> nn.Module:
        """The diffusers network for images of so many channels."""
        raise NotImplementedError
