"""PatchGAN discriminator (Isola et al. 2017, arXiv:1611.07004): one logit for each overlapping patch of an image.

Normalised over channels of one image, where the paper normalises over the batch: a logit depends on its own image alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from genlib.nn.centred_conv import CentredConv

GROUPS = partial(nn.GroupNorm, 8)
"""Normalisation over an eighth of the channels together."""


class PatchDiscriminator(nn.Module):
    """(B, channels, H, W) in [-1, 1] -> logits (B, 1, h, w). `layers` halvings; 3 sees patches of 70 pixels a side.

    `norm` makes a normalisation of so many channels: one with weights of its own, before which convolutions have no bias, or one without.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3, norm: Callable[[int], nn.Module] = GROUPS) -> None:
        super().__init__()
        widths = [min(2**i, 8) * width for i in range(layers + 1)]
        blocks: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            normalise = norm(widths[i])
            plain = partial(nn.Conv2d, bias=False) if any(True for _ in normalise.parameters()) else CentredConv
            blocks += [plain(widths[i - 1], widths[i], 4, stride, 1), normalise, nn.LeakyReLU(0.2, inplace=True)]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    @staticmethod
    def smallest_image(layers: int) -> int:
        """Pixels a side below which there is no whole patch."""
        return 3 * 2**layers

    def receptive_field(self) -> int:
        """Pixels a side of the patch that a logit looks at: through each convolution back, (r - 1) strides and a kernel."""
        side = 1
        for conv in reversed([one for one in self.blocks if isinstance(one, nn.Conv2d)]):
            side = (side - 1) * conv.stride[0] + conv.kernel_size[0]
        return side

    def forward(self, image: Tensor) -> Tensor:
        """See the class; fp32 logits."""
        return self.blocks(image).float()
