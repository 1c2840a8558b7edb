"""Norm-free residual image tower that open_clip loads as its own ModifiedResNet.

The shape is CLIP's residual tower (Radford et al. 2021, arXiv:2103.00020, section 2.4): every halving is a mean over 2x2, and one
attention query, the mean of the map, gathers the map into a vector. Instead of batch statistics, scaled weight standardisation
(Brock, De & Smith 2021, arXiv:2101.08692) keeps activations in range. It is a reparameterisation of the weights alone: the output
for an image depends neither on its batch nor on the number of ranks, and it folds into plain convolutions.

Blocks keep one 3x3 and one 1x1 convolution of CLIP's bottleneck and do not widen fourfold. Activations are never negative, so the
missing convolutions are identities that pass through ReLU, and the missing channels are zeros: `genlib.nn.open_clip_residual` fills them in.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))  # restores the variance that ReLU leaves of a normal variable (arXiv:2101.08692, section 4)
STRIDE = 32


class StandardisedConv(nn.Module):
    """Convolution whose kernels have zero mean and unit norm, times `scale` and a learnt gain. (B, in, H, W) -> (B, out, H', W')."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, scale: float = 1.0, gain: float = 1.0) -> None:
        super().__init__()
        self.stride, self.padding, self.scale = stride, kernel_size // 2, scale
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size) / math.sqrt(in_channels * kernel_size**2))
        self.gain = nn.Parameter(torch.full((out_channels,), gain))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def folded_weight(self) -> Tensor:
        """The kernels of the plain convolution this one equals, fp32 (out, in, k, k)."""
        weight = self.weight.float()
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        norm = torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-6)
        return weight * (norm * (self.scale * self.gain.float())[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        return F.conv2d(x, self.folded_weight().to(x.dtype), self.bias.to(x.dtype), self.stride, self.padding)


class ResidualBlock(nn.Module):
    """3x3 convolution, ReLU, mean over the stride, 1x1 convolution, beside a shortcut; then ReLU. (B, in, H, W) -> (B, out, H', W').

    A block that halves the map must widen it.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        # a halving block does its 3x3 at the old width: there it works on four times the places
        inner = in_channels if stride > 1 else out_channels
        self.spatial = StandardisedConv(in_channels, inner, 3, scale=RELU_GAIN)
        self.mix = StandardisedConv(inner, out_channels, 1, scale=RELU_GAIN, gain=0.5)
        self.shortcut = StandardisedConv(in_channels, out_channels, 1, scale=RELU_GAIN) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        branch = self.spatial(x).relu_()  # in place: on a CPU, fresh memory for every map is a tenth of the time
        if self.stride > 1:
            branch, x = F.avg_pool2d(branch, self.stride), F.avg_pool2d(x, self.stride)
        return self.mix(branch).add_(x if self.shortcut is None else self.shortcut(x)).relu_()


class AttentionPool(nn.Module):
    """One query, the mean of the map, attends over the mean and every place. (B, channels, grid, grid) -> (B, embed_dim)."""

    def __init__(self, channels: int, embed_dim: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.randn(grid**2 + 1, channels) / math.sqrt(channels))
        # positions reach query and key, and the projection has a bias of its own: biases of these three would add nothing
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.project = nn.Linear(channels, embed_dim)
        for linear in (self.query, self.key, self.value, self.project):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(channels))
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, grid, grid) -> (B, embed_dim)."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.position.to(x.dtype)
        query, key, value = map(self._split_heads, (self.query(tokens[:, :1]), self.key(tokens), self.value(tokens)))
        # plain products: one query makes no large matrix to avoid, and the fused kernel is slow on a CPU in bf16
        share = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)  # (B, heads, 1, N)
        return self.project((share.to(value.dtype) @ value).flatten(1))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, channels) -> (B, heads, N, channels / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ResidualTower(nn.Module):
    """Stem, four residual stages, attention pooling. (B, in_channels, image_size, image_size) -> (B, embed_dim).

    `width` is the first stage's number of channels, doubled by each of the others; `layers` counts the blocks of each stage. The
    stem quarters the image and each stage after the first halves it, so the last map is image_size / 32 on a side. Zero is best
    the background: it is what surrounds the image.
    """

    def __init__(
        self, *, embed_dim: int, in_channels: int = 3, image_size: int = 64, width: int = 32, layers: Sequence[int] = (1, 1, 1, 1), heads: int = 4
    ) -> None:
        super().__init__()
        if image_size < STRIDE or image_size % STRIDE:
            raise ValueError(f"image_size {image_size} is not a multiple of the tower's stride {STRIDE}; use {max(1, image_size // STRIDE) * STRIDE}")
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"layers {tuple(layers)} must be four counts of at least one block")
        if width < 4 or width % 4 or 8 * width % heads:
            raise ValueError(f"width {width} must be a multiple of 4, and 8 * width one of heads {heads}; use {4 * heads}")
        self.in_channels, self.image_size, self.width, self.layers, self.heads = in_channels, image_size, width, tuple(layers), heads
        self.stem = StandardisedConv(in_channels, width // 2, 3, stride=2, scale=RELU_GAIN)
        self.blocks = nn.Sequential(*_blocks(width, layers))
        self.pool = AttentionPool(8 * width, embed_dim, heads, image_size // STRIDE)
        self.checkpointing = False

    def enable_gradient_checkpointing(self) -> None:
        """Blocks are computed again in the backward pass."""
        self.checkpointing = True

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, image_size, image_size), normalised -> (B, embed_dim), not of unit length."""
        if images.shape[1:] != (self.in_channels, self.image_size, self.image_size):
            raise ValueError(f"images {tuple(images.shape)} are not (B, {self.in_channels}, {self.image_size}, {self.image_size}); resize them first")
        x = self.stem(_channels_last(images)).relu_()
        x = F.avg_pool2d(x, 2)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing and torch.is_grad_enabled() else block(x)
        return self.pool(x)


def _channels_last(images: Tensor) -> Tensor:
    """The order of the images decides the kernels of the whole tower, and this is the faster one, for bf16 above all.

    Images of one channel have both orders at once: the strides say which is meant. The weights stay in the default order, the
    only one safetensors writes.
    """
    return images[:, 0, :, :, None].movedim(-1, 1) if images.shape[1] == 1 else images.contiguous(memory_format=torch.channels_last)


def _blocks(width: int, layers: Sequence[int]) -> list[ResidualBlock]:
    """The blocks of all stages in order; a stage's first block doubles the width and, but for the first stage, halves the map."""
    blocks: list[ResidualBlock] = []
    for stage, count in enumerate(layers):
        channels = width * 2**stage
        blocks.append(ResidualBlock(channels // 2, channels, stride=2 if stage else 1))
        blocks.extend(ResidualBlock(channels, channels) for _ in range(count - 1))
    return blocks
