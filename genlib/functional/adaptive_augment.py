"""Augmentation of what a discriminator sees (Karras et al. 2020, arXiv:2006.06676, appendix B).

Every change is made with a probability below 1, so that a generator whose augmented pictures look like augmented data can only make unaugmented
ones: the augmentation does not leak. Draws are keyed by position, and pictures go through linear operators, whose gradients can be
differentiated again. How often is steered by `genlib.nn.augment_strength`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import random
from genlib.config import Config, limited
from genlib.functional.filters import DAUBECHIES_2, mirrored
from genlib.functional.warp import moved_by_pixels, resampled

PIXEL_SHIFT = 0.125
"""Largest shift by whole pixels, as a share of the side. This and the figures below are those of the paper's appendix B."""
SCALE, STRETCH, SHIFT = 0.2, 0.2, 0.125
"""Deviations of the scale's and the aspect's binary logarithms, and of the shift as a share of the side."""
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0
"""Deviations of the brightness, and of the contrast's and the saturation's binary logarithms."""
BAND_GAIN = 1.0
"""Deviation of the binary logarithm of a frequency band's gain."""
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""Share of natural pictures' power in each band, of which the lowest reaches to an eighth of the highest frequency."""
NOISE, CUTOUT = 0.1, 0.5
"""Deviation of the noise's deviation, and the side of the square cut out as a share of the picture's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorAugmentation(Config):
    """How often each change is made, as a share of the overall strength; 0 is never."""

    flip: float = limited(0.0, at_least=0, at_most=1)
    """Mirrored from left to right, in half of the cases."""
    quarter_turn: float = limited(0.0, at_least=0, at_most=1)
    """Turned by 0, 90, 180 or 270 degrees."""
    pixel_shift: float = limited(0.0, at_least=0, at_most=1)
    """Shifted by whole pixels."""
    scale: float = limited(0.0, at_least=0, at_most=1)
    """Larger or smaller."""
    rotation: float = limited(0.0, at_least=0, at_most=1)
    """Turned by any angle, before the stretch, after it, or both."""
    stretch: float = limited(0.0, at_least=0, at_most=1)
    """Wider and lower, or the other way round."""
    shift: float = limited(0.0, at_least=0, at_most=1)
    """Shifted by fractions of a pixel."""
    brightness: float = limited(0.0, at_least=0, at_most=1)
    """Brighter or darker."""
    contrast: float = limited(0.0, at_least=0, at_most=1)
    """More or less contrast."""
    luma_flip: float = limited(0.0, at_least=0, at_most=1)
    """Dark and bright exchanged, hues kept, in half of the cases."""
    hue: float = limited(0.0, at_least=0, at_most=1)
    """Hues turned by any angle."""
    saturation: float = limited(0.0, at_least=0, at_most=1)
    """More or less colourful."""
    bands: float = limited(0.0, at_least=0, at_most=1)
    """Each of four bands of frequencies louder or softer."""
    noise: float = limited(0.0, at_least=0, at_most=1)
    """Noise in each pixel and channel."""
    cutout: float = limited(0.0, at_least=0, at_most=1)
    """A square of half the side in grey."""


_BLIT = ("flip", "quarter_turn", "pixel_shift")
_GEOMETRY = ("scale", "rotation", "stretch", "shift")
_COLOUR = ("brightness", "contrast", "luma_flip", "hue", "saturation")


def _all_of(*names: str) -> DiscriminatorAugmentation:
    return DiscriminatorAugmentation(**dict.fromkeys(names, 1.0))


PRESETS = {
    "blit": _all_of(*_BLIT),
    "geom": _all_of(*_GEOMETRY),
    "color": _all_of(*_COLOUR),
    "filter": _all_of("bands"),
    "noise": _all_of("noise"),
    "cutout": _all_of("cutout"),
    "bg": _all_of(*_BLIT, *_GEOMETRY),
    "bgc": _all_of(*_BLIT, *_GEOMETRY, *_COLOUR),
    "bgcf": _all_of(*_BLIT, *_GEOMETRY, *_COLOUR, "bands"),
    "bgcfn": _all_of(*_BLIT, *_GEOMETRY, *_COLOUR, "bands", "noise"),
    "bgcfnc": _all_of(*_BLIT, *_GEOMETRY, *_COLOUR, "bands", "noise", "cutout"),
}
"""The paper's sets by the names of its published code; `bgc` is the one it recommends."""


@dataclass(frozen=True, slots=True)
class _Draws:
    """Random numbers of a batch, a stream for each use."""

    position: Tensor
    strength: Tensor | float
    seed: int
    stream: str

    def chosen(self, use: str, share: Tensor | float) -> Tensor:
        """Whether a change is made to each picture, (B,) bool."""
        return self.uniform(f"whether {use}") < share * self.strength

    def uniform(self, use: str, *shape: int) -> Tensor:
        """In [0, 1), (B, *shape)."""
        return random.uniform(self.position, shape, seed=self.seed, stream=f"{self.stream}: {use}")

    def normal(self, use: str, *shape: int) -> Tensor:
        """Of deviation 1, (B, *shape)."""
        return random.normal(self.position, shape, seed=self.seed, stream=f"{self.stream}: {use}")

    def around_one(self, use: str, share: float, deviation: float) -> Tensor:
        """A factor (B,) whose binary logarithm has that deviation where the change is made, else 1."""
        return torch.where(self.chosen(use, share), torch.exp2(deviation * self.normal(use)), 1.0)


def augmented(images: Tensor, position: Tensor, strength: Tensor | float, config: DiscriminatorAugmentation, *, seed: int, stream: str) -> Tensor:
    """Pictures (B, C, H, W) around 0, as in [-1, 1], each changed by what its position (B,) and the stream draw -> float32 of the same shape.

    `strength` in [0, 1] is the probability of each change; at 0 the pictures stay as they are, bit for bit. C is 3 or 1, which has no hue nor
    saturation. ValueError for other numbers of channels where colours are to change.
    """
    if any(getattr(config, name) for name in _COLOUR) and images.shape[1] not in (1, 3):
        raise ValueError(f"colours of pictures with {images.shape[1]} channels are not known; give 1 or 3, or set {', '.join(_COLOUR)} to 0")
    draws = _Draws(position, strength, seed, stream)
    with torch.autocast(images.device.type, enabled=False):
        images = _moved(images.float(), config, draws)
        images = _recoloured(images, config, draws)
        if config.bands:
            images = _amplified(images, band_gains(config, draws))
        if config.noise:
            deviation = torch.where(draws.chosen("noise", config.noise), NOISE * draws.normal("deviation of the noise").abs(), 0.0)
            images = images + draws.normal("noise", *images.shape[1:]) * deviation[:, None, None, None]
        if config.cutout:
            images = torch.where(_cut_out(images, config, draws), 0.0, images)
    return images


def _moved(images: Tensor, config: DiscriminatorAugmentation, draws: _Draws) -> Tensor:
    """By whole pixels, exactly, and those that any other change of place is drawn for in one resampling of both."""
    height, width = images.shape[2:]
    sides = torch.tensor([width, height], dtype=torch.float32, device=images.device)
    whole = pixel_map(config, draws, sides)
    moved = moved_by_pixels(images, whole) if any(getattr(config, name) for name in _BLIT) else images
    if not any(getattr(config, name) for name in _GEOMETRY):
        return moved
    place, changed = geometric_map(config, draws, sides)
    return torch.where(changed[:, None, None, None], resampled(images, whole @ place), moved)


def pixel_map(config: DiscriminatorAugmentation, draws: _Draws, sides: Tensor) -> Tensor:
    """The map (B, 3, 3) of the flip, the quarter turn and the shift by whole pixels, see `genlib.functional.warp`. sides (2,): width and height."""
    place = _identity(draws.position)
    if config.flip:
        flipped = draws.chosen("flip", config.flip) & (draws.uniform("flip") < 0.5)
        place = place @ _scaling(torch.where(flipped, -1.0, 1.0), 1.0)
    if config.quarter_turn:
        turns = torch.where(draws.chosen("quarter turn", config.quarter_turn), (4 * draws.uniform("quarter turn")).floor(), 0.0)
        place = place @ _rotation(turns * (math.pi / 2))
    if config.pixel_shift:
        shift = ((2 * draws.uniform("pixel shift", 2) - 1) * PIXEL_SHIFT * sides).round()
        place = place @ _translation(torch.where(draws.chosen("pixel shift", config.pixel_shift)[:, None], shift, 0.0))
    return place


def geometric_map(config: DiscriminatorAugmentation, draws: _Draws, sides: Tensor) -> tuple[Tensor, Tensor]:
    """The map (B, 3, 3) of all other changes of place, and whether there are some (B,) bool."""
    scale, stretch = draws.around_one("scale", config.scale, SCALE), draws.around_one("stretch", config.stretch, STRETCH)
    # both rotations together are made as often as the strength says
    share = 1 - (1 - torch.as_tensor(config.rotation * draws.strength)).clamp(min=0).sqrt()
    uses = [f"rotation {when} the stretch" for when in ("before", "after")]
    angles = [torch.where(draws.uniform(f"whether {use}") < share, (2 * draws.uniform(use) - 1) * math.pi, 0.0) for use in uses]
    shift = torch.where(draws.chosen("shift", config.shift)[:, None], SHIFT * sides * draws.normal("shift", 2), 0.0)
    place = _scaling(1 / scale, 1 / scale) @ _rotation(angles[0]) @ _scaling(1 / stretch, stretch) @ _rotation(angles[1]) @ _translation(shift)
    changed = (scale != 1) | (stretch != 1) | (angles[0] != 0) | (angles[1] != 0) | (shift != 0).any(1)
    return place, changed


def _identity(position: Tensor) -> Tensor:
    return torch.eye(3, device=position.device).repeat(len(position), 1, 1)


def _scaling(x: Tensor, y: Tensor | float) -> Tensor:
    return torch.diag_embed(torch.stack([x, x.new_ones(len(x)) * y, x.new_ones(len(x))], 1))


def _rotation(angle: Tensor) -> Tensor:
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], 1).view(-1, 3, 3)


def _translation(shift: Tensor) -> Tensor:
    place = _identity(shift)
    return torch.cat([place[:, :, :2], torch.cat([-shift, place[:, 2:, 2]], 1)[:, :, None]], 2)


def _recoloured(images: Tensor, config: DiscriminatorAugmentation, draws: _Draws) -> Tensor:
    """A colour is its luma, the mean of its channels, and what is left, its chroma: the luma is shifted and scaled, the chroma turned and scaled."""
    if not any(getattr(config, name) for name in _COLOUR):
        return images
    gain = draws.around_one("contrast", config.contrast, CONTRAST)
    light = torch.where(draws.chosen("brightness", config.brightness), BRIGHTNESS * draws.normal("brightness"), 0.0)
    flipped = draws.chosen("luma flip", config.luma_flip) & (draws.uniform("luma flip") < 0.5)
    luma = torch.where(flipped, -gain, gain)
    if images.shape[1] == 1:
        return torch.addcmul((luma * light)[:, None, None, None], images, luma[:, None, None, None])
    angle = torch.where(draws.chosen("hue", config.hue), (2 * draws.uniform("hue") - 1) * math.pi, 0.0)
    chroma = gain * draws.around_one("saturation", config.saturation, SATURATION)
    matrix = _colour_matrix(luma, chroma, angle)
    changed = (luma != 1) | (light != 0) | (chroma != 1) | (angle != 0)
    new = torch.baddbmm((luma * light)[:, None, None], matrix, images.flatten(2)).view(images.shape)
    return torch.where(changed[:, None, None, None], new, images)


def _colour_matrix(luma: Tensor, chroma: Tensor, angle: Tensor) -> Tensor:
    """Factors (B,) of luma and chroma, and the angle (B,) by which the chroma turns about the grey axis -> (B, 3, 3)."""
    grey = torch.full((3, 3), 1 / 3, device=luma.device)
    turn = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=luma.device) / math.sqrt(3)  # the cross product with the grey axis
    luma, along, across = (factor[:, None, None] for factor in (luma, chroma * angle.cos(), chroma * angle.sin()))
    return luma * grey + along * (torch.eye(3, device=grey.device) - grey) + across * turn


def band_filters() -> Tensor:
    """Filters of the four bands, the lowest first, (4, 43) float32: each band is an octave but the lowest, and their sum is the identity."""
    taps = torch.tensor(DAUBECHIES_2, dtype=torch.float64)
    low = torch.stack([(taps[max(k, 0) :][: 4 - abs(k)] * taps[max(-k, 0) :][: 4 - abs(k)]).sum() / 2 for k in range(-3, 4)])
    high = -low
    high[3] += 1
    kept, bands = torch.ones(1, dtype=torch.float64), []
    for level in range(3):
        bands.append(_product(kept, _spread(high, 2**level)))
        kept = _product(kept, _spread(low, 2**level))
    bands.append(kept)
    size = len(kept)
    return torch.stack([F.pad(band, [(size - len(band)) // 2] * 2) for band in reversed(bands)]).float()


def _spread(taps: Tensor, factor: int) -> Tensor:
    """With factor - 1 zeros between the taps."""
    wide = taps.new_zeros((len(taps) - 1) * factor + 1)
    wide[::factor] = taps
    return wide


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Both filters one after the other; b is symmetric."""
    return F.conv1d(a[None, None], b[None, None], padding=len(b) - 1)[0, 0]


def band_gains(config: DiscriminatorAugmentation, draws: _Draws) -> Tensor:
    """Gain of each band, (B, 4), which leaves the power of a natural picture as it is."""
    power = torch.tensor(BAND_POWER, device=draws.position.device)
    gains = torch.ones(len(draws.position), len(power), device=power.device)
    for band in range(len(power)):
        drawn = draws.around_one(f"band {band}", config.bands, BAND_GAIN)
        own = torch.where(torch.arange(len(power), device=power.device) == band, drawn[:, None], 1.0)
        gains = gains * torch.where(drawn[:, None] == 1, 1.0, own / (own.square() @ power).sqrt()[:, None])
    return gains


def _amplified(images: Tensor, gains: Tensor) -> Tensor:
    """Each picture's bands by its gains (B, 4), along both axes, with mirrored edges."""
    across, down = (torch.einsum("bk,kij->bij", gains, _as_matrices(size, gains))[:, None] for size in (images.shape[3], images.shape[2]))
    changed = (gains != 1).any(1)[:, None, None, None]
    return torch.where(changed, down @ images @ across.mT, images)


def _as_matrices(size: int, like: Tensor) -> Tensor:
    """The bands' filters with mirrored edges as matrices (4, size, size) on an axis: for any size, and faster than a convolution a picture."""
    bands = band_filters().to(like)
    reach = bands.shape[1] // 2
    reached = torch.arange(size, device=like.device)[:, None] + torch.arange(-reach, reach + 1, device=like.device)
    index = mirrored(reached, size).expand(len(bands), -1, -1)
    return torch.zeros(len(bands), size, size, device=like.device).scatter_add(2, index, bands[:, None].expand(index.shape))


def _cut_out(images: Tensor, config: DiscriminatorAugmentation, draws: _Draws) -> Tensor:
    """Whether a pixel lies in the square, (B, 1, H, W) bool."""
    chosen, centre = draws.chosen("cutout", config.cutout), draws.uniform("cutout", 2)
    height, width = images.shape[2:]
    near = [
        ((torch.arange(size, device=images.device) + 0.5) / size - centre[:, axis, None]).abs() < CUTOUT / 2
        for axis, size in ((0, width), (1, height))
    ]
    return (chosen[:, None, None] & near[1][:, :, None] & near[0][:, None, :])[:, None]
