"""Pieces of the residual translators (Johnson et al. 2016, arXiv:1603.08155): each channel of a picture normalised by itself, without weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from genlib.nn.centred_conv import CentredConv, CentredConvTranspose


class CentredBlock(nn.Module):
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


def entry(channels: int, width: int, halvings: int) -> Iterator[nn.Module]:
    """Pictures (B, channels, H, W) -> (B, s * width, H / s, W / s), s = 2**halvings."""
    yield from (nn.ReflectionPad2d(3), CentredConv(channels, width, 7), nn.InstanceNorm2d(width), nn.ReLU())
    for here in (width * 2**at for at in range(halvings)):
        yield from (CentredConv(here, 2 * here, 3, 2, 1), nn.InstanceNorm2d(2 * here), nn.ReLU())


def blocks(width: int, halvings: int, count: int) -> Iterator[nn.Module]:
    """So many blocks between `entry` and `ending`."""
    return (CentredBlock(width * 2**halvings) for _ in range(count))


def ending(channels: int, width: int, halvings: int) -> Iterator[nn.Module]:
    """(B, s * width, h, w) -> pictures (B, channels, s * h, s * w) in [-1, 1], s = 2**halvings."""
    for here in (width * 2**at for at in reversed(range(halvings))):
        yield from (CentredConvTranspose(2 * here, here, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(here), nn.ReLU())
    yield from (nn.ReflectionPad2d(3), nn.Conv2d(width, channels, 7), nn.Tanh())
