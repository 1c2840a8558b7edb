"""CLIP's towers: transformers' own for the transformers, ours for the residual network, and the temperature between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.config import Config, limited
from genlib.nn.residual_tower import ResidualTower

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionTransformer(Config):
    """The image tower of transformers' CLIP (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

    image_size: int = limited(224, at_least=1)
    """Pixels a side."""
    patch_size: int = limited(32, at_least=1)
    """Pixels a side of one token."""
    width: int = limited(768, at_least=1)
    """Channels of a token."""
    layers: int = limited(12, at_least=1)
    """Transformer blocks."""
    heads: int = limited(12, at_least=1)
    """Attention heads."""

    def validate(self) -> None:
        if self.image_size % self.patch_size:
            whole = max(1, self.image_size // self.patch_size) * self.patch_size
            raise ValueError(f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}; use {whole}")

    def build(self, channels: int, embed_dim: int, activation: str) -> nn.Module:
        """(B, channels, image_size, image_size) -> (B, embed_dim)."""
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        return ImageTransformer(
            CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    image_size=self.image_size, patch_size=self.patch_size, hidden_size=self.width, intermediate_size=4 * self.width,
                    num_hidden_layers=self.layers, num_attention_heads=self.heads, num_channels=channels, projection_dim=embed_dim,
                    hidden_act=activation,
                )
            )
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualNetwork(Config):
    """A residual convolutional image tower with attention pooling: `genlib.nn.residual_tower`."""

    image_size: int = limited(64, at_least=32)
    """Pixels a side, a multiple of 32."""
    width: int = limited(32, at_least=2)
    """Channels of the first stage; each other stage has twice those of the one before."""
    layers: tuple[int, int, int, int] = (1, 1, 1, 1)
    """Residual blocks of each stage."""
    heads: int = limited(4, at_least=1)
    """Attention heads of the pooling."""

    def build(self, channels: int, embed_dim: int, activation: str) -> nn.Module:
        """(B, channels, image_size, image_size) -> (B, embed_dim); its own activation is ReLU."""
        return ResidualTower(
            embed_dim=embed_dim, in_channels=channels, image_size=self.image_size, width=self.width, layers=self.layers, heads=self.heads
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTransformer(Config):
    """The text tower of transformers' CLIP: causal, read at the end mark."""

    context_length: int = limited(77, at_least=3)
    """Longest text in tokens, both marks included."""
    vocab_size: int = limited(49_408, at_least=514)
    """Tokens, both marks included."""
    width: int = limited(512, at_least=1)
    """Channels of a token."""
    layers: int = limited(12, at_least=1)
    """Transformer blocks."""
    heads: int = limited(8, at_least=1)
    """Attention heads."""
    dropout: float = limited(0.0, at_least=0, below=1)
    """Dropout of attention weights."""

    def build(self, embed_dim: int, activation: str) -> nn.Module:
        """(B, N) int64 -> (B, embed_dim)."""
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        return TextTower(
            CLIPTextModelWithProjection(
                CLIPTextConfig(
                    vocab_size=self.vocab_size, max_position_embeddings=self.context_length, hidden_size=self.width, intermediate_size=4 * self.width,
                    num_hidden_layers=self.layers, num_attention_heads=self.heads, projection_dim=embed_dim, attention_dropout=self.dropout,
                    hidden_act=activation, bos_token_id=None,
                    eos_token_id=2,  # read where the number is highest: the end mark, whatever its number
                )
            )
        )  # fmt: skip


def attention() -> str:
    """transformers' name of the fastest attention here: on a CPU, PyTorch's fused one in bf16 takes 3 to 13 times as long as plain products."""
    return "sdpa" if torch.cuda.is_available() else "eager"


class ImageTransformer(nn.Module):
    """transformers' image tower with a tensor out. (B, C, H, W) -> (B, embed_dim)."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        model.set_attn_implementation(attention())

    def enable_gradient_checkpointing(self) -> None:
        """Blocks are computed again in the backward pass."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).image_embeds


class TextTower(nn.Module):
    """transformers' text tower with a tensor out. (B, N) int64 -> (B, embed_dim)."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        model.set_attn_implementation(attention())

    def enable_gradient_checkpointing(self) -> None:
        """Blocks are computed again in the backward pass."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, tokens: Tensor) -> Tensor:
        # Causal: nothing after the last end mark reaches any text's. A GPU would wait for the number, and a plan's tensors hold none.
        if tokens.device.type == "cpu" and type(tokens) is Tensor:
            tokens = tokens[:, : int(tokens.argmax(1).max()) + 1]
        return self.model(tokens).text_embeds


class _Bounded(torch.autograd.Function):
    """min(x, limit); above the limit gradients pass that lead back, so that a value held there can leave."""

    @staticmethod
    def forward(ctx, x: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x >= limit)
        return x.clamp(max=limit)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (held,) = ctx.saved_tensors
        return torch.where(held, grads[0].clamp(min=0), grads[0]), None


class TwoTowers(nn.Module):
    """Image tower, text tower and the temperature between them."""

    image: nn.Module
    text: nn.Module

    def __init__(self, image: nn.Module, text: nn.Module, temperature: float) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)]))  # one entry: DeepSpeed breaks on none

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) normalised pixels and (B, N) tokens -> directions (B, D), (B, D) and the scale of logits (1,), at most 100."""
        return self.embed_image(images), self.embed_text(tokens), _Bounded.apply(self.logit_scale, math.log(100.0)).exp()  # type: ignore[union-attr]

    def embed_image(self, images: Tensor) -> Tensor:
        """Directions (B, D) float32."""
        return F.normalize(self.image(images).float(), dim=-1)

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Directions (B, D) float32."""
        return F.normalize(self.text(tokens).float(), dim=-1)
