"""Stages that the small text-to-image recipes share: icons, an autoencoder for them, and text encoders, all from nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig
from genlib.models.autoencoders.kl import AutoencoderKLConfig
from genlib.models.representation.base.clip_towers import ResidualNetwork, TextTransformer
from genlib.models.representation.clip import CLIPConfig, clip_tiny
from genlib.recipe import Stage

PROMPTS = (
    "arrow right", "heart", "home", "star", "lock", "bell", "cloud", "camera", "phone", "user", "airplane", "umbrella", "moon", "sun", "battery",
    "book", "key", "music", "fish", "tree", "car", "clock", "cup", "gift", "heart fill", "star outline", "cloud rain", "home heart", "lock open",
    "bell off", "arrow left circle", "phone star",
)  # fmt: skip
"""What the pictures of the icon models show; the last ones are of words that stand in no one name together."""
ICONS = DataConfig(train="icons", image_size=32)
SHAPES = DataConfig(train="shapes", image_size=32)
"""What smoke forms train on."""


def training(steps: int, batch: int, learning_rate: float, **options: Any) -> TrainConfig:
    """How autoencoders and denoisers train here."""
    optim = OptimConfig(learning_rate=learning_rate, beta2=0.99, schedule="cosine", warmup_steps=min(100, steps // 10), clip_norm=1.0)
    return TrainConfig(steps=steps, global_batch=batch, precision="bf16", optim=optim, **options)


def autoencoder_stage(**options: Any) -> Stage:
    """Icons to 8 x 8 latents of 4 numbers."""
    task = AutoencoderKLConfig(
        block_out_channels=(16, 32, 64), layers_per_block=1, norm_groups=8, attention=False, distance="l2", kl_weight=1e-4, **options
    )
    return Stage(name="autoencoder", task=task, data=ICONS, train=training(480, 64, 2e-3, ema_halflife_samples=4000))


def text_stage(name: str, embed_dim: int, steps: int) -> Stage:
    """The first job's CLIP on smaller pictures, of which the text tower is wanted. It has one block: the hidden states before it are those
    of single words, which a denoiser of so few captions puts together better than what a second block makes of whole ones."""
    (stage,) = clip_tiny().stages
    assert isinstance(stage.task, CLIPConfig)
    task = replace(stage.task, image=ResidualNetwork(image_size=32, width=16), embed_dim=embed_dim)
    return replace(
        stage, name=name, task=task, data=ICONS, train=replace(stage.train, steps=steps, optim=replace(stage.train.optim, warmup_steps=40))
    )


def smoke_stage(name: str, task: TaskConfig, learning_rate: float = 2e-3, **options: Any) -> Stage:
    """A stage of a smoke form."""
    train = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(learning_rate=learning_rate))
    return Stage(name=name, task=task, data=SHAPES, train=train, **options)


def smoke_autoencoder(**options: Any) -> Stage:
    """The smallest autoencoder."""
    return smoke_stage("autoencoder", AutoencoderKLConfig(block_out_channels=(8, 16), layers_per_block=1, norm_groups=4, **options))


def smoke_text(name: str, width: int = 16, layers: int = 2) -> Stage:
    """The smallest CLIP."""
    text = TextTransformer(context_length=8, vocab_size=600, width=width, layers=layers, heads=2)
    image = ResidualNetwork(image_size=32, width=8, heads=2)
    return smoke_stage(name, CLIPConfig(image=image, text=text, embed_dim=16, mean=(0.5,), std=(0.5,)))
