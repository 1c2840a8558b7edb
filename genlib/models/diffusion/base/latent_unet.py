"""The U-Net of latent diffusion: diffusers' own, from a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genlib.config import Config, limited


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentUNetConfig(Config):
    """Size of the network (Rombach et al. 2022, arXiv:2112.10752; Podell et al. 2023, arXiv:2307.01952)."""

    block_out_channels: tuple[int, ...] = (320, 640, 1280)
    """Channels at each resolution; every one after the first halves the latents."""
    transformer_layers: tuple[int, ...] = (0, 2, 10)
    """Transformer blocks that read the text, at each resolution and after each residual block; 0 is none."""
    layers_per_block: int = limited(2, at_least=1)
    """Residual blocks of each resolution on the way down; one more on the way up."""
    head_dim: int = limited(64, at_least=1)
    """Channels of an attention head."""
    norm_groups: int = limited(32, at_least=1)
    """Groups of every normalisation; must divide all channels."""
    size_dim: int = limited(256, at_least=2)
    """Channels of the sinusoids that tell each number of the size conditioning."""
    gradient_checkpointing: bool = False
    """Keep block inputs alone in the forward pass and compute the rest again in the backward pass."""

    def validate(self) -> None:
        channels, layers = self.block_out_channels, self.transformer_layers
        if not channels or len(channels) != len(layers):
            raise ValueError(f"block_out_channels {channels} and transformer_layers {layers} differ in length; give one number of each a resolution")
        if not any(layers):
            raise ValueError("transformer_layers has no resolution with a block, so the text would reach nothing; give one at least 1")
        for width, depth in zip(channels, layers, strict=True):
            if width < 1 or width % self.norm_groups or (depth and width % self.head_dim):
                raise ValueError(
                    f"block_out_channels {channels}: {width} is not a multiple of norm_groups {self.norm_groups}, head_dim {self.head_dim}"
                )

    @property
    def factor(self) -> int:
        """What the sides of latents must divide by."""
        return 2 ** (len(self.block_out_channels) - 1)

    def depths(self) -> int | tuple[int, ...]:
        """transformer_layers as published configurations write them: one number where all are equal; the middle, which always reads the
        text, is as deep as the last resolution that does."""
        some = [layers for layers in self.transformer_layers if layers]
        if len(set(some)) == 1:
            return some[0]
        return (*(max(1, layers) for layers in self.transformer_layers[:-1]), some[-1])

    def build(self, latent_channels: int, text_dim: int, sample_size: int, *, pooled_dim: int = 0, size_ids: int = 0) -> nn.Module:
        """A `ConditionalUNet` for latents (B, latent_channels, h, w) and texts (B, N, text_dim).

        With `size_ids` numbers of size conditioning it also takes those and a pooled text (B, pooled_dim). `sample_size` is the side
        of latents that the exported pipeline makes by default.
        """
        from diffusers import UNet2DConditionModel  # type: ignore[attr-defined]
        from diffusers.models.attention_processor import AttnProcessor

        down = tuple("CrossAttnDownBlock2D" if layers else "DownBlock2D" for layers in self.transformer_layers)
        added = {
            "addition_embed_type": "text_time", "addition_time_embed_dim": self.size_dim,
            "projection_class_embeddings_input_dim": pooled_dim + size_ids * self.size_dim,
        }  # fmt: skip
        model = UNet2DConditionModel(
            sample_size=sample_size, in_channels=latent_channels, out_channels=latent_channels, cross_attention_dim=text_dim,
            block_out_channels=tuple(self.block_out_channels), layers_per_block=self.layers_per_block, norm_num_groups=self.norm_groups,
            transformer_layers_per_block=self.depths(), use_linear_projection=True,  # type: ignore[arg-type]
            attention_head_dim=tuple(max(1, width // self.head_dim) for width in self.block_out_channels),  # type: ignore[arg-type]
            mid_block_type="UNetMidBlock2DCrossAttn", down_block_types=down,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)), **(added if size_ids else {}),
        )  # fmt: skip
        if not torch.cuda.is_available():  # PyTorch's fused attention in bf16 on a CPU: 158 samples a second for 273 with plain products
            model.set_attn_processor(AttnProcessor())
        if self.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        return ConditionalUNet(model)


class ConditionalUNet(nn.Module):
    """diffusers' U-Net with tensors in and out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, time: Tensor, text: Tensor, pooled: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """x (B, c, h, w), time (B,), text (B, N, D), pooled (B, P) and sizes (B, S) -> (B, c, h, w)."""
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
        return self.model(x, time, text, added_cond_kwargs=added).sample
