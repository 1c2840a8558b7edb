"""Residual convolutional image tower with attention pooling.

Pre-activation residual stages (He et al. 2016, arXiv:1603.05027) end in one attention query, the mean of the map, that gathers
the map into a vector: the pooling of CLIP's residual towers (Radford et al. 2021, arXiv:2103.00020, section 2.4).

Norms see one sample at a time (GroupNorm with one group, Wu & He 2018, arXiv:1803.08494): the output for an image depends neither
on its batch nor on the number of ranks. Residual branches start near zero (after Goyal et al. 2017, arXiv:1706.02677).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sample_norm(channels: int) -> nn.GroupNorm:
    """Normalise all of one sample's values together, then scale and shift each channel."""
    return nn.GroupNorm(1, channels)


class ResidualBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice, beside a shortcut. (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = sample_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = sample_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        # a mean before the 1x1 convolution lets the shortcut see every pixel, where a strided one would drop three of four
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.project = nn.Conv2d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else nn.Identity()
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        # near zero: a fresh block is almost its shortcut. Not zero: every weight has a gradient from the first step
        nn.init.normal_(self.conv2.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        branch = self.conv1(F.relu(self.norm1(x)))
        branch = self.conv2(F.relu(self.norm2(branch)))
        return self.project(self.pool(x)) + branch


class AttentionPool(nn.Module):
    """One query, the mean of the map, attends over the mean and every place. (B, channels, H, W) -> (B, embed_dim).

    A learned position for every place of a `grid` x `grid` map; maps of another size get them interpolated.
    """

    def __init__(self, channels: int, embed_dim: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.position = nn.Parameter(0.02 * torch.randn(1, channels, grid, grid))
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, embed_dim)."""
        tokens = self.norm(x.flatten(2).transpose(1, 2))  # (B, H * W, channels)
        mean = tokens.mean(1, keepdim=True)
        tokens = torch.cat([mean, tokens + self._position(x)], 1)
        query = self._split_heads(self.query(mean))
        key, value = map(self._split_heads, self.key_value(tokens).chunk(2, -1))
        pooled = F.scaled_dot_product_attention(query, key, value)  # (B, heads, 1, channels / heads)
        return self.project(pooled.flatten(1))

    def _position(self, x: Tensor) -> Tensor:
        """The places' positions for the map x (B, channels, H, W) -> (1, H * W, channels)."""
        position = self.position
        if position.shape[-2:] != x.shape[-2:]:
            position = F.interpolate(position, x.shape[-2:], mode="bilinear", align_corners=False)
        return position.flatten(2).transpose(1, 2).to(x.dtype)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, channels) -> (B, heads, N, channels / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ResidualTower(nn.Module):
    """Stem, residual stages, attention pooling. (B, in_channels, H, W) -> (B, embed_dim).

    The stem halves the image and so does every stage after the first, hence `stride` = 2 ** len(widths), which must divide H and W.
    `image_size` is the size positions are learned for.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        in_channels: int = 3,
        image_size: int = 32,
        stem_width: int = 24,
        widths: Sequence[int] = (48, 96, 192),
        depths: Sequence[int] = (1, 1, 1),
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.stride = 2 ** len(widths)
        if len(widths) != len(depths) or not widths:
            raise ValueError(f"widths {tuple(widths)} and depths {tuple(depths)} need one entry for each stage")
        if image_size < self.stride or image_size % self.stride:
            raise ValueError(f"image_size {image_size} is not a multiple of the tower's stride {self.stride}; use one or fewer stages")
        if widths[-1] % heads:
            raise ValueError(f"the last of widths, {widths[-1]}, is not divisible by heads {heads}")
        self.stem = nn.Conv2d(in_channels, stem_width, 3, stride=2, padding=1)
        self.stages = nn.Sequential(*_blocks(stem_width, widths, depths))
        self.pool = AttentionPool(widths[-1], embed_dim, heads, image_size // self.stride)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, embed_dim), not normalised to unit length."""
        if images.shape[-1] % self.stride or images.shape[-2] % self.stride:
            raise ValueError(f"images of {tuple(images.shape[-2:])} pixels: both sides must be multiples of the tower's stride {self.stride}")
        # the order of the activations decides the kernels: channels last is the faster one, for bf16 above all.
        # The weights stay in the default order, the only one safetensors writes.
        x = self.stem(images).contiguous(memory_format=torch.channels_last)
        return self.pool(self.stages(x))


def _blocks(in_channels: int, widths: Sequence[int], depths: Sequence[int]) -> list[ResidualBlock]:
    """The blocks of all stages in order; the first block of every stage but the first halves the map."""
    blocks: list[ResidualBlock] = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            blocks.append(ResidualBlock(in_channels, width, stride))
            in_channels = width
    return blocks
