"""Small encoders and the decoders that mirror them: samples flattened, (B, D), to numbers (B, K) and back.

Dense layers, dense layers that share their weights both ways, and strided convolutions with transposed ones the way back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from genlib.plurals import counted

KERNEL = 4  # twice the stride, so that transposed convolutions draw no checkerboard (Odena et al. 2016, doi:10.23915/distill.00003)


class Coder(nn.Module):
    """An encoder (B, D) -> (B, K) and a decoder (B, codes) -> (B, D); either works without the other."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        """There and back, (B, D) -> (B, D), where the encoder's numbers are the code."""
        return self.decoder(self.encoder(x))


def dense(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers through these sizes, ReLU between them and none behind the last; two sizes are one linear map."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def dense_coder(sides: Sequence[int], widths: Sequence[int], codes: int, numbers: int = 0) -> Coder:
    """Dense both ways. `sides` of a sample, features of the hidden layers from sample to code; `numbers` the encoder gives, by default `codes`."""
    size = math.prod(sides)
    return Coder(dense([size, *widths, numbers or codes]), dense([codes, *reversed(widths), size]))


class TransposedLinear(nn.Module):
    """The transpose of a linear layer, whose weight it uses as its own, and a bias."""

    def __init__(self, other: nn.Linear) -> None:
        super().__init__()
        self.other = (other,)  # in a tuple it is no sub-module, so the weight has one name and one owner
        self.bias = nn.Parameter(other.weight.new_zeros(other.in_features))

    @property
    def weight(self) -> Tensor:
        """(out, in) as in nn.Linear, a view of the other's weight."""
        return self.other[0].weight.T

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) -> (B, out)."""
        return F.linear(x, self.weight, self.bias)


def tied_coder(sides: Sequence[int], widths: Sequence[int], codes: int, numbers: int = 0) -> Coder:
    """As `dense_coder`, but each layer of the decoder is the transpose of the encoder's: about half the weights."""
    assert numbers in (0, codes), "a tied decoder starts from what its encoder gives"
    encoder = dense([math.prod(sides), *widths, codes])
    layers: list[nn.Module] = []
    for layer in reversed(encoder):
        layers += [TransposedLinear(layer), nn.ReLU()] if isinstance(layer, nn.Linear) else []
    return Coder(encoder, nn.Sequential(*layers[:-1]))


def convolutional_coder(sides: Sequence[int], widths: Sequence[int], codes: int, numbers: int = 0) -> Coder:
    """Convolutions of stride 2 with so many channels, then a linear layer; and back. Any (C, H, W) whose sides can be halved so often.

    ValueError where they cannot.
    """
    channels, *size = sides
    maps = [(size[0] >> level, size[1] >> level) for level in range(len(widths) + 1)]
    if not min(maps[-1]):
        raise ValueError(
            f"images of {size[-1]} px cannot be halved {counted(len(widths), 'time')}; give fewer task.widths, or a larger --data.image-size"
        )
    features = (channels, *widths)
    last = (features[-1], *maps[-1])
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    for (a, b), sides_before in zip(pairwise(features), maps, strict=False):
        down += [nn.Conv2d(a, b, KERNEL, 2, padding=1), nn.ReLU()]
        lost = (sides_before[0] % 2, sides_before[1] % 2)
        up = [nn.ConvTranspose2d(b, a, KERNEL, 2, padding=1, output_padding=lost), nn.ReLU(), *up]
    encoder = nn.Sequential(nn.Unflatten(1, tuple(sides)), *down, nn.Flatten(), nn.Linear(math.prod(last), numbers or codes))
    decoder = nn.Sequential(nn.Linear(codes, math.prod(last)), nn.ReLU(), nn.Unflatten(1, last), *up[:-1], nn.Flatten())
    return Coder(encoder, decoder)


CODERS: dict[str, Callable[..., Coder]] = {"dense": dense_coder, "tied": tied_coder, "convolutional": convolutional_coder}
"""By the name that a configuration gives; all take (sides, widths, codes, numbers=0)."""
