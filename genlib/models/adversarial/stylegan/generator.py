"""A whole generator: noise to styles, styles to an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genlib.models.adversarial.base.growing import Growth
from genlib.models.adversarial.stylegan.mapping import Mapping
from genlib.models.adversarial.stylegan.synthesis1 import Synthesis1
from genlib.models.adversarial.stylegan.synthesis2 import Noise, Synthesis2
from genlib.models.adversarial.stylegan.synthesis3 import Synthesis3


class Generator(nn.Module):
    """noise (B, latent_dim), maybe one-hot labels (B, classes) -> images (B, channels, side, side) float32, of about [-1, 1]."""

    def __init__(self, mapping: Mapping, synthesis: Synthesis1 | Synthesis2 | Synthesis3) -> None:
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis

    @property
    def growth(self) -> Growth | None:
        """How far it has grown; None of what never does."""
        return self.synthesis.growth if isinstance(self.synthesis, Synthesis1) else None

    def forward(self, noise: Tensor, valid: Tensor | None = None, *labels: Tensor) -> Tensor:
        """See the class. It looks at each row alone, so it does not ask which are `valid`; layers' noise is what they keep."""
        return self.synthesis(self.same_style(self.mapping(noise, *labels)))

    def same_style(self, w: Tensor) -> Tensor:
        """Styles (B, style_dim) for every layer, (B, num_ws, style_dim)."""
        return w[:, None].expand(-1, self.synthesis.num_ws, -1)

    def mixed(self, first: Tensor, second: Tensor, crossover: Tensor) -> Tensor:
        """Styles (B, num_ws, style_dim): of the layers before crossover (B,) int64 the first's (B, style_dim), from there on the second's."""
        late = torch.arange(self.synthesis.num_ws, device=first.device) >= crossover[:, None]
        return torch.where(late[:, :, None], second[:, None], first[:, None])

    def drawn(self, ws: Tensor, noise: Noise, counts: Tensor | None = None) -> Tensor:
        """Images of styles (B, num_ws, style_dim) with such noise at the layers.

        counts (B,) bool: rows from which StyleGAN3's layers learn how strong their signals are, see `settle`; None is none.
        """
        if isinstance(self.synthesis, Synthesis3):
            return self.synthesis(ws, noise, valid=counts)
        return self.synthesis(ws, noise)

    def settle(self) -> None:
        """After a step, on all ranks: see `Synthesis3.settle`."""
        if isinstance(self.synthesis, Synthesis3):
            self.synthesis.settle()

    @property
    def noise_numbers(self) -> int:
        """Numbers of noise that the layers of one image take."""
        return sum(side**2 for side in self.synthesis.noise_sides)

    def planes(self, numbers: Tensor) -> Sequence[Tensor]:
        """(B, noise_numbers) -> a plane (B, 1, side, side) for each layer."""
        sides = self.synthesis.noise_sides
        return [part.view(-1, 1, side, side) for part, side in zip(numbers.split([side**2 for side in sides], 1), sides, strict=True)]
