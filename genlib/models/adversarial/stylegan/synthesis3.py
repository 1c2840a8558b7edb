"""StyleGAN3's synthesis network (Karras et al. 2021, arXiv:2106.12423): features are signals that no layer lets alias, so nothing sticks to pixels.

It starts at Fourier features, which can be shifted and turned by any amount. Each layer's signal has a cutoff frequency, which grows from layer
to layer, and a sampling rate above what the cutoff needs; a nonlinearity makes frequencies without end, so it is applied at twice the rate and
what it added is filtered away. Maps have a margin beyond the picture. Names of weights are those of the published generators.

Configuration T has 3x3 kernels and is equivariant to translation. R has 1x1 kernels, radial filters and twice the channels, and is equivariant to
rotation as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.config import Config, limited
from genlib.functional.filters import decimated, interpolated, kaiser_low_pass, radial_low_pass
from genlib.models.adversarial.base.equalized import GAIN, SLOPE, EqualizedLinear
from genlib.models.adversarial.base.resolutions import CLAMP, precision, sides
from genlib.models.adversarial.stylegan.synthesis2 import TINY, Noise
from genlib.nn.step_sum import StepSum, taken

OUTPUT_SCALE = 0.25
"""Of images, as in the published code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasFree(Config):
    """The design of its layers; as it stands that of configuration T, which has channels 32,768 (base) and 512 (most)."""

    num_layers: int = limited(14, at_least=2)
    """Layers between the Fourier features and the last one, to pixels."""
    num_critical: int = limited(2, at_least=1)
    """How many of the last of them have no room between the cutoff and half of the sampling rate."""
    first_cutoff: float = limited(2.0, above=0)
    """Cutoff of the first layer, in cycles an image."""
    first_stopband: float = limited(2**2.1, above=0)
    """Where the first layer's filter has stopped, in cycles an image."""
    last_stopband: float = limited(2**0.3, above=1)
    """The same of the last layers, as a multiple of their cutoff."""
    margin: int = limited(10, at_least=0)
    """Samples of each map beyond every edge of the image."""
    filter_size: int = limited(6, at_least=2)
    """Length of a filter, in samples of the lower rate."""
    radial: bool = False
    """1x1 kernels and radial filters, as configuration R, which has channels 65,536 (base) and 1,024 (most)."""
    power_halflife_samples: float = limited(20_000.0, above=0)
    """Samples over which the running mean of the power of each layer's input goes half of the way."""

    def validate(self) -> None:
        if self.num_critical >= self.num_layers:
            raise ValueError(f"num_critical {self.num_critical} leaves no other of {self.num_layers} layers; lower it or raise num_layers")
        if self.first_stopband <= self.first_cutoff:
            raise ValueError(f"first_stopband {self.first_stopband:g} is not above first_cutoff {self.first_cutoff:g}; raise it")


@dataclass(frozen=True, slots=True)
class Signal:
    """What goes from a layer to the next: cutoff and half-width in cycles an image, rate in samples an image, size in samples with both margins."""

    channels: int
    size: int
    rate: int
    cutoff: float
    half_width: float
    critical: bool


def signals(design: AliasFree, image_size: int, channels: int, base: int, most: int) -> list[Signal]:
    """What each layer gives, the last one the image: cutoffs and stopbands in geometric progression (section 3.2).

    ValueError where image_size is no power of two of at least 8, or shows no frequency above the first cutoff.
    """
    last_cutoff, made = sides(image_size)[-1] / 2, []
    if design.first_cutoff >= last_cutoff:
        raise ValueError(f"first_cutoff {design.first_cutoff:g} is not below {last_cutoff:g}, the most that images of {image_size} show; lower it")
    for layer in range(design.num_layers + 1):
        share = min(layer / (design.num_layers - design.num_critical), 1)
        cutoff = design.first_cutoff * (last_cutoff / design.first_cutoff) ** share
        stopband = design.first_stopband * (last_cutoff * design.last_stopband / design.first_stopband) ** share
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, image_size)))
        width = channels if layer == design.num_layers else max(1, round(min(base / 2 / cutoff, most)))
        size = image_size if layer >= design.num_layers - 1 else rate + 2 * design.margin
        critical = layer >= design.num_layers - design.num_critical
        made.append(Signal(width, size, rate, cutoff, max(stopband, rate / 2) - cutoff, critical))
    return made


class FourierFeatures(nn.Module):
    """w (B, style_dim) -> (B, channels, size, size): waves of random frequencies below the cutoff, shifted and turned as w says, and mixed."""

    transform: Tensor
    """(3, 3): where each place of the image, in images from its middle, is taken from, beside what w says."""
    freqs: Tensor
    """(channels, 2): cycles an image, across and down."""
    phases: Tensor
    """(channels,): in cycles."""

    def __init__(self, style_dim: int, signal: Signal) -> None:
        super().__init__()
        self.size, self.rate, self.cutoff = signal.size, signal.rate, signal.cutoff
        angle, radius = 2 * math.pi * torch.rand(signal.channels), signal.cutoff * torch.rand(signal.channels).sqrt()
        self.weight = nn.Parameter(torch.randn(signal.channels, signal.channels))
        self.affine = EqualizedLinear(style_dim, 4)
        nn.init.zeros_(self.affine.weight)
        self.affine.bias = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0]))  # not turned, not shifted
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.stack([radius * angle.cos(), radius * angle.sin()], 1))
        self.register_buffer("phases", torch.rand(signal.channels) - 0.5)

    def forward(self, w: Tensor, transform: Tensor | None = None) -> Tensor:
        """See the class; `transform` (3, 3) in the place of the buffer's."""
        freqs, phases = self.moved(w, self.transform if transform is None else transform.to(self.freqs))
        beyond = (freqs.norm(dim=2) - self.cutoff) / (self.rate / 2 - self.cutoff)
        place = (torch.arange(self.size, device=w.device) + 0.5 - self.size / 2) / self.rate
        across, down = (2 * math.pi * (place[:, None] * freqs[:, None, :, axis]) for axis in (0, 1))  # (B, size, C)
        across = across + 2 * math.pi * phases[:, None]
        # the sine of every sum, from sines and cosines along the edges: far fewer of them
        waves = across.sin()[:, None] * down.cos()[:, :, None] + across.cos()[:, None] * down.sin()[:, :, None]  # (B, H, W, C)
        mixing = self.weight / math.sqrt(len(self.weight)) * (1 - beyond).clamp(0, 1)[:, None]  # waves that became too fine are damped
        return (waves.flatten(1, 2) @ mixing.mT).unflatten(1, (self.size, self.size)).permute(0, 3, 1, 2)

    def moved(self, w: Tensor, transform: Tensor) -> tuple[Tensor, Tensor]:
        """Frequencies (B, channels, 2) and phases (B, channels): turned and shifted by w, after the transform (appendix F.2)."""
        motion = self.affine(w)
        cos, sin, right, down = (motion / motion[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        turned = self.freqs @ torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
        shift = transform[:2, 2] - torch.stack([right, down], 1)
        return turned @ transform[:2, :2], self.phases + (turned @ shift[:, :, None])[:, :, 0]


class FilteredLayer(nn.Module):
    """(B, inputs, H, W) of one signal and w (B, style_dim) -> (B, outputs, H', W') of the next. The last one, to an image, is linear."""

    magnitude_ema: Tensor
    """(): the running mean of the power of what comes in."""
    up_filter: Tensor
    down_filter: Tensor

    def __init__(self, style_dim: int, before: Signal, after: Signal, design: AliasFree, *, last: bool, low: bool) -> None:
        super().__init__()
        self.last, self.low, self.kernel = last, low, 1 if last or design.radial else 3
        self.affine = EqualizedLinear(style_dim, before.channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(after.channels, before.channels, self.kernel, self.kernel))
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        self.seen = StepSum()  # of the power of what comes in
        if last:
            return
        rate = 2 * max(before.rate, after.rate)
        self.up, self.down = rate // before.rate, rate // after.rate
        up, down = design.filter_size * self.up, design.filter_size * self.down
        low_pass = radial_low_pass if design.radial and not after.critical else kaiser_low_pass
        self.register_buffer("up_filter", kaiser_low_pass(up, before.cutoff, before.half_width, rate))
        self.register_buffer("down_filter", low_pass(down, after.cutoff, after.half_width, rate))
        wanted = (after.size - 1) * self.down + down + up - 1
        missing = wanted - (before.size + self.kernel - 1) * self.up
        self.before = (missing + self.up) // 2  # the middle stays the middle (appendix C.3)
        self.after = missing - self.before

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """See the class."""
        with torch.autocast(w.device.type, enabled=False):
            style, weight, gain = self.modulation(w)
        with precision(w.device.type, low=self.low):
            x = F.conv2d(x * style.to(x.dtype)[:, :, None, None], weight, padding=self.kernel - 1)
            x = torch.addcmul(self.bias.to(x.dtype)[:, None, None] * (1 if self.last else GAIN), x, gain.to(x.dtype)[:, :, None, None])
            if self.last:
                return F.hardtanh(x, -CLAMP, CLAMP)
            x = interpolated(x, self.up_filter, self.up, self.before, self.after)
            return decimated(F.hardtanh(F.leaky_relu(x, SLOPE), -CLAMP, CLAMP), self.down_filter, self.down)

    def modulation(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Factors of what comes in (B, inputs), the weights, and factors of what comes out (B, outputs).

        The latter give inputs of unit power, which `magnitude_ema` makes them, outputs of unit power (appendix F.1).
        """
        style, weight, into = self.affine(w), self.weight, self.magnitude_ema.rsqrt()
        if self.last:
            return style * into / math.sqrt(weight.shape[1]), weight, torch.ones(w.shape[0], len(weight), device=w.device)
        weight = weight * (weight.square().mean((1, 2, 3), keepdim=True) + TINY).rsqrt()
        style = style * (style.square().mean(1, keepdim=True) + TINY).rsqrt()
        power = style.square() @ weight.square().sum((2, 3)).T
        return style * into, weight, GAIN * (power + TINY).rsqrt()

    @torch.no_grad()
    def observe(self, x: Tensor, valid: Tensor) -> None:
        """Notes the power of what comes in, of rows that count."""
        self.seen.add(x.float().square().mean((1, 2, 3)), valid)


class Synthesis3(nn.Module):
    """styles ws (B, num_ws, style_dim) -> images (B, channels, image_size, image_size) float32, of about [-1, 1].

    low: how many of the largest sampling rates compute in bf16, whatever the others do.
    """

    def __init__(self, image_size: int, channels: int, style_dim: int, base: int, most: int, low: int = 0, design: AliasFree | None = None) -> None:
        super().__init__()
        self.design = design = design or AliasFree()
        self.style_dim, self.num_ws = style_dim, design.num_layers + 2
        self.noise_sides: list[int] = []
        """Pixels a side of each layer's noise: none has any."""
        made = signals(design, image_size, channels, base, most)
        self.input = FourierFeatures(style_dim, made[0])
        self.layer_names = [f"L{number}_{signal.size}_{signal.channels}" for number, signal in enumerate(made)]
        for number, (name, before, after) in enumerate(zip(self.layer_names, [made[0], *made[:-1]], made, strict=True)):
            kind = {"last": number == design.num_layers, "low": after.rate * 2**low > image_size}
            self.add_module(name, FilteredLayer(style_dim, before, after, design, **kind))

    @property
    def layers(self) -> list[FilteredLayer]:
        """In their order."""
        return [self.get_submodule(name) for name in self.layer_names]  # type: ignore[misc]

    def forward(self, ws: Tensor, noise: Noise = "const", *, transform: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """See the class; no layer has noise.

        transform: (3, 3), where each place of the image, in images from its middle, is taken from; None is what the input keeps. valid: (B,)
        bool, rows whose signals' power the running means are to follow (see `settle`); None is none.
        """
        first, *rest = ws.to(self.input.freqs.dtype).unbind(1)
        with torch.autocast(ws.device.type, enabled=False):
            x = self.input(first, transform)
        for layer, w in zip(self.layers, rest, strict=True):
            if valid is not None:
                layer.observe(x, valid)
            x = layer(x, w)
        return x.float() * OUTPUT_SCALE

    @torch.no_grad()
    def settle(self) -> None:
        """After a step, on all ranks: the running means move by what all of them saw since the last time, alike."""
        for layer, (total, count) in zip(self.layers, taken(*(layer.seen for layer in self.layers)), strict=True):
            kept = 0.5 ** (count / self.design.power_halflife_samples)
            layer.magnitude_ema.lerp_(total[0] / count.clamp(min=1), 1 - kept)
