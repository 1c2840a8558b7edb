"""Pieces of the residual translators (Johnson et al. 2016, arXiv:1603.08155): each channel of a picture normalised by itself, without weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from genlib.nn.centred_conv import CentredConv, CentredConvTranspose

HALVINGS = 2
"""Of every residual translator: its blocks work at a quarter of the size."""
MULTIPLE = 2**HALVINGS
"""Of which the sides of its pictures are multiples."""


class ResidualBlock(nn.Module):
    """(B, C, H, W) -> the same: two 3x3 convolutions, added to what comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1), CentredConv(channels, channels, 3), nn.InstanceNorm2d(channels), nn.ReLU(),
            nn.ReflectionPad2d(1), CentredConv(channels, channels, 3), nn.InstanceNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + self.body(x)


def entry(channels: int, width: int) -> Iterator[nn.Module]:
    """Pictures (B, channels, H, W) -> (B, 4 * width, H / 4, W / 4)."""
    yield from (nn.ReflectionPad2d(3), CentredConv(channels, width, 7), nn.InstanceNorm2d(width), nn.ReLU())
    for here in (width, 2 * width):
        yield from (CentredConv(here, 2 * here, 3, 2, 1), nn.InstanceNorm2d(2 * here), nn.ReLU())


def blocks(width: int, count: int) -> Iterator[nn.Module]:
    """So many blocks between `entry` and `ending`."""
    return (ResidualBlock(MULTIPLE * width) for _ in range(count))


def ending(channels: int, width: int) -> Iterator[nn.Module]:
    """(B, 4 * width, h, w) -> pictures (B, channels, 4 * h, 4 * w) in [-1, 1]."""
    for here in (4 * width, 2 * width):
        yield from (CentredConvTranspose(here, here // 2, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(here // 2), nn.ReLU())
    yield from (nn.ReflectionPad2d(3), nn.Conv2d(width, channels, 7), nn.Tanh())
