"""From noise to a style: StyleGAN's mapping network (Karras et al. 2019, arXiv:1812.04948); labels as in arXiv:2006.06676."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlib.models.adversarial.base.equalized import EqualizedLinear, pixel_norm

LEARNING_RATE = 0.01
"""How fast its layers learn, as a factor of the others' (section C)."""


class Mapping(nn.Module):
    """noise (B, noise_dim), and of `classes` one-hot labels (B, classes) -> styles w (B, style_dim).

    noise_dim 0: of labels alone, as a discriminator needs it. Else `w_avg` (style_dim,), the mean of w, is for whoever trains it to move.
    """

    w_avg: Tensor

    def __init__(self, noise_dim: int, style_dim: int, layers: int, classes: int = 0) -> None:
        super().__init__()
        self.noise_dim = noise_dim
        self.embed = EqualizedLinear(classes, style_dim) if classes else None
        sizes = [noise_dim + (style_dim if classes else 0), *[style_dim] * layers]
        self.layers = layers
        for number in range(layers):
            self.add_module(f"fc{number}", EqualizedLinear(sizes[number], sizes[number + 1], activation="lrelu", learning_rate=LEARNING_RATE))
        if noise_dim:
            self.register_buffer("w_avg", torch.zeros(style_dim))

    def forward(self, noise: Tensor | None, *labels: Tensor) -> Tensor:
        """See the class."""
        parts = [] if noise is None else [pixel_norm(noise.float())]
        if self.embed is not None:
            parts += [pixel_norm(self.embed(one)) for one in labels]
        x = torch.cat(parts, 1)
        for number in range(self.layers):
            x = self.get_submodule(f"fc{number}")(x)
        return x.float()  # styles are averaged and mixed

    def truncated(self, w: Tensor, truncation: float) -> Tensor:
        """Styles (..., style_dim) drawn to their mean: 1 leaves them, 0 is the mean (the truncation trick, section B).

        ValueError where no mean is known.
        """
        if truncation == 1:
            return w
        if not self.w_avg.any():
            raise ValueError(
                f"truncation {truncation:g} draws styles to their mean, which this generator has not: it was never trained here, or its weights came "
                "without w_avg; use 1"
            )
        return self.w_avg.lerp(w, truncation)
