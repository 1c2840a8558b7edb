"""How exactly a generator's images move when its input is moved (Karras et al. 2021, arXiv:2106.12423, appendix E): EQ-T and EQ-R, in decibels.

An image is made, then shifted or turned as an ideal camera would; and it is made again from an input shifted or turned alike. The peak
signal-to-noise ratio of both, where both are known, is infinite for a generator that is equivariant.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.distributed import mean_over_ranks

LANCZOS = 3
"""Half-width of the windows of ideal filters, in pixels."""
LARGEST_SHIFT = 1 / 8
"""Of the side."""
RANGE = 2.0
"""Of pixels: -1 to 1."""
_STEP = 16  # places in a pixel at which windows are tabulated


def shift_transform(right: float, down: float) -> Tensor:
    """(3, 3): where each place, in images from the middle, is taken from when the image moves to the right and down by so many of its sides."""
    return torch.tensor([[1.0, 0.0, -right], [0.0, 1.0, -down], [0.0, 0.0, 1.0]])


def turn_transform(angle: float) -> Tensor:
    """(3, 3): where each place is taken from when the image turns by an angle, x to y being a quarter turn back."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def equivariance(
    generate: Callable[[int, Tensor], Tensor], batches: int, *, seed: int = 0, shifts: bool = True, turns: bool = True
) -> dict[str, float]:
    """Decibels, over all ranks: `eq_t` of shifts by whole pixels, `eq_t_frac` of any shifts, `eq_r` of turns; each batch has one of each.

    generate: a batch's number and a transform (3, 3), which says where each place of the image, in images from its middle, is taken from, to images
    (B, C, side, side) in about [-1, 1]; the same images moved whenever it is called with that number. A generator that starts from a constant map
    may be given `shifted_map` of it; it cannot be turned.
    """
    draw, sums = torch.Generator().manual_seed(seed), {}
    for number in range(batches):
        images = generate(number, torch.eye(3))
        side = images.shape[-1]
        for name, right, down, angle in _motions(draw, side, shifts, turns):
            if name == "eq_r":
                found, expected = turned_back(generate(number, turn_transform(angle)), angle), turned(images, angle)
            else:
                moved = generate(number, shift_transform(right / side, down / side))
                found, expected = (moved, torch.ones_like(moved[0, 0])), shifted(images, right, down)
            mask = found[1] * expected[1]
            error = ((found[0] - expected[0]).double().square() * mask).sum()
            sums[name] = sums.get(name, 0) + torch.stack([error, mask.sum().double() * images.shape[0] * images.shape[1]])
    return {name: _decibels(mean_over_ranks(total)) for name, total in sums.items()}


def _motions(draw: torch.Generator, side: int, shifts: bool, turns: bool) -> list[tuple[str, float, float, float]]:
    """A name, pixels to the right and down, and an angle, of each kind that is asked for."""
    random = (2 * torch.rand(5, generator=draw, dtype=torch.float64) - 1).tolist()
    most = LARGEST_SHIFT * side
    found = [("eq_t", float(round(most * random[0])), float(round(most * random[1])), 0.0), ("eq_t_frac", most * random[2], most * random[3], 0.0)]
    return (found if shifts else []) + ([("eq_r", 0.0, 0.0, math.pi * random[4])] if turns else [])


def _decibels(total: Tensor) -> float:
    error, count = total.tolist()
    if not count:
        raise ValueError("no pixel is known both before and after a motion; the images are too small for it, measure larger ones")
    return math.inf if error == 0 else 10 * math.log10(RANGE**2 * count / error)


def shifted(images: Tensor, right: float, down: float) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) moved by pixels, and where they are known, (H, W) of 0 and 1. Between pixels by Lanczos's window of the ideal filter."""
    across, known_across = _shift_matrix(images.shape[3], right, images)
    along, known_along = _shift_matrix(images.shape[2], down, images)
    return along @ images @ across.mT, known_along[:, None] * known_across


def _shift_matrix(size: int, shift: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """What each pixel of a shifted line takes of each one, (size, size), and whether all that it takes is there, (size,)."""
    whole = shift == round(shift)
    reach = (0, 0) if whole else (1 - LANCZOS, LANCZOS)
    start = math.floor(-shift)
    taken = torch.arange(size)[:, None] + start + torch.arange(reach[0], reach[1] + 1)  # pixels, (size, taps)
    away = (-shift - start) - torch.arange(reach[0], reach[1] + 1, dtype=torch.float64)
    taps = torch.sinc(away) * torch.sinc(away / LANCZOS)
    inside = (taken >= 0) & (taken < size)
    values = torch.where(inside, taps / taps.sum(), 0.0)
    matrix = torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, taken.clamp(0, size - 1), values)
    return matrix.to(like), inside.all(1).to(like)


def shifted_map(values: Tensor, transform: Tensor) -> Tensor:
    """A map (C, H, W), taken to go on periodically, that is moved by a transform without a turn: by the phases of its Fourier series."""
    for axis, entry in ((1, 1), (2, 0)):
        size = values.shape[axis]
        cycles = torch.fft.fftfreq(size, device=values.device) * size  # a map
        phase = torch.exp(2j * math.pi * cycles * transform[entry, 2].to(values.device))
        if size % 2 == 0:
            phase[size // 2] = phase[size // 2].real.clone()  # of the finest wave only what is seen at the places
        spectrum = torch.fft.fft(values, dim=axis) * (phase[:, None] if axis == 1 else phase)
        values = torch.fft.ifft(spectrum, dim=axis).real
    return values


def turned(images: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) turned as by `turn_transform`, and where they are known, (H, W) of 0 and 1.

    They keep the frequencies that both the pixels and the turned pixels can show, by a filter whose window is Lanczos's of both (appendix E.3).
    """
    height, width = images.shape[2:]
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in (height, width)), indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = cos * x - sin * y + (width - 1) / 2, sin * x + cos * y + (height - 1) / 2
    left, top = x.floor().long(), y.floor().long()
    offsets = range(1 - 2 * LANCZOS, 2 * LANCZOS + 1)
    known = (left + offsets[0] >= 0) & (left + offsets[-1] < width) & (top + offsets[0] >= 0) & (top + offsets[-1] < height)
    band, window = _Band(angle), _window(angle)
    total, weights = torch.zeros_like(images), torch.zeros_like(images[0, 0])
    for row in offsets:
        for column in offsets:
            across, along = x - (left + column), y - (top + row)
            weight = (band(across, along) * _between(window, across, along)).to(images)
            index = (top + row).clamp(0, height - 1) * width + (left + column).clamp(0, width - 1)
            total += weight * images.flatten(2)[:, :, index.to(images.device)]
            weights += weight
    return total / weights, known.to(images)


def turned_back(images: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) that have been turned, with the frequencies that `turned` keeps and no others, and where they are known."""
    reach = 2 * LANCZOS - 1
    along, across = torch.meshgrid(*[torch.arange(-reach, reach + 1, dtype=torch.float64)] * 2, indexing="ij")
    taps = _Band(-angle)(across, along) * _between(_window(-angle), across, along)
    kernel = (taps / taps.sum()).to(images).expand(images.shape[1], 1, -1, -1)
    known = F.pad(images.new_ones([max(size - 2 * reach, 0) for size in images.shape[2:]]), [reach] * 4)
    if known.shape != images.shape[2:]:
        known = images.new_zeros(images.shape[2:])
    return F.conv2d(images, kernel, padding=reach, groups=images.shape[1]), known


class _Band:
    """The ideal filter of frequencies that lie in the square of half a cycle a pixel and in the same turned by an angle: an octagon's transform."""

    def __init__(self, angle: float) -> None:
        self.angle = angle % (math.pi / 2)
        # by the divergence theorem it is a sum over edges, of which each square has four, cut off by the other: from `low` to `high` of the middle
        low, high = -math.tan(math.pi / 4 - self.angle / 2) / 2, math.tan(self.angle / 2) / 2
        self.edges = [(0.0, low, high), (math.pi / 2, low, high), (self.angle, -high, -low), (self.angle + math.pi / 2, -high, -low)]
        self.area = sum((high - low) / 2 for _, low, high in self.edges)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """At offsets in pixels, of any shape, float64."""
        square, total = x.square() + y.square(), torch.zeros_like(x)
        for turn, low, high in self.edges:  # an edge and the one opposite
            away, along = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
            total += away * (high - low) * torch.sinc((high - low) * along) * torch.sin(2 * math.pi * (away / 2 + along * (low + high) / 2))
        return torch.where(square < 1e-12, self.area, total / (math.pi * square.clamp(min=1e-12)))


def _window(angle: float) -> Tensor:
    """The convolution of Lanczos's window and the same turned, at every 1 / _STEP of a pixel from -8 on, (16 _STEP, 16 _STEP) float64."""
    place = torch.arange(-8 * _STEP, 8 * _STEP, dtype=torch.float64) / _STEP
    y, x = torch.meshgrid(place, place, indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    spectra = []
    for across, along in ((x, y), (cos * x + sin * y, cos * y - sin * x)):
        inside = (across.abs() < LANCZOS) & (along.abs() < LANCZOS)
        window = torch.where(inside, torch.sinc(across / LANCZOS) * torch.sinc(along / LANCZOS), 0.0)
        spectra.append(torch.fft.fft2(torch.fft.ifftshift(window)))
    return torch.fft.fftshift(torch.fft.ifft2(spectra[0] * spectra[1]).real)


def _between(table: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values of a table as of `_window` at offsets in pixels."""
    size = len(table)
    grid = torch.stack([(at * _STEP + size // 2) * (2 / (size - 1)) - 1 for at in (x, y)], -1)
    return F.grid_sample(table[None, None], grid[None], mode="bicubic", align_corners=True)[0, 0]
