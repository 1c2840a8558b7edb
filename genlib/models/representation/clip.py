"""Contrastive language-image pretraining (Radford et al. 2021, arXiv:2103.00020).

Two towers give an image and its caption a direction each; the loss is a symmetric cross-entropy that picks each image's caption
among all captions of the global batch, and each caption's image. A trained pair classifies images by names it never saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.companions import Companions
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig, limited, tunable
from genlib.data.transforms.augment import CaptionAugmentation, ImageAugmentation, augment, augment_captions
from genlib.data.transforms.plain import stack_images
from genlib.functional.contrastive import contrastive_loss
from genlib.models.representation.base.clip_towers import ResidualNetwork, TextTransformer, TwoTowers, VisionTransformer
from genlib.nn.tokenizer import TextTokenizer, load_bpe
from genlib.plurals import counted
from genlib.ports import Features, Image, Names, Probabilities, Sizes, Templates, Texts
from genlib.recipe import Recipe, Stage
from genlib.task import Phase, Task, action
from genlib.types import Batch, DataSource, DataSpec, Metrics, Samples, Step

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's own pretraining images


@dataclass(frozen=True, kw_only=True, slots=True)
class CLIPConfig(TaskConfig):
    """Two towers and how captions and images are prepared for them."""

    image: VisionTransformer | ResidualNetwork = field(default_factory=VisionTransformer)
    """Image tower."""
    text: TextTransformer = field(default_factory=TextTransformer)
    """Text tower."""
    embed_dim: int = limited(512, at_least=1)
    """Size of the space that both towers share."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """Between the two layers of each transformer block: quick_gelu in OpenAI's towers, gelu in most of OpenCLIP's."""
    gradient_checkpointing: bool = False
    """Compute the activations of both towers' blocks again in the backward pass instead of keeping them: less memory, a third more time."""
    temperature: float = tunable(0.07, low=0.02, high=0.2, log=True, above=0.01, at_most=1)
    """Temperature at the start; it is learnt, and never falls below 0.01."""
    tokenizer_file: str = ""
    """Published vocabulary: tokenizer.json, a folder with vocab.json and merges.txt, or a list of merges; empty trains one on the captions.
    Texts are cleaned as open_clip does it before any of them, and an export has that cleaning in it."""
    tokenizer_captions: int = limited(1_000_000, at_least=1)
    """Captions that a vocabulary is trained on, from the first."""
    mean: tuple[float, ...] = OPENAI_MEAN
    """Subtracted from pixels in [0, 1]; one value, or one a channel."""
    std: tuple[float, ...] = OPENAI_STD
    """Divides pixels after that."""
    augmentation: ImageAugmentation = field(default_factory=ImageAugmentation)
    """What training images go through."""
    captions: CaptionAugmentation = field(default_factory=CaptionAugmentation)
    """What training captions go through."""
    templates: tuple[str, ...] = ("{}",)
    """Sentences around a name whose directions are averaged in zero-shot classification."""

    fields: ClassVar[tuple[str, ...]] = ("image", "text")

    def check_data(self, data: DataSpec) -> None:
        if not data.has_captions:
            way_out = data.caption_hint or "; give shards of image-text pairs with --data.train"
            raise ValueError(f"CLIP learns from captions, but the samples have none (.txt members){way_out}")
        if len(self.mean) not in (1, data.channels) or len(self.std) not in (1, data.channels):
            raise ValueError(
                f"task.mean and task.std have {len(self.mean)} and {counted(len(self.std), 'value')}, images {counted(data.channels, 'channel')}; "
                "give one or one a channel"
            )

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> CLIP:
        self.check_data(data)
        return CLIP(self, data)


class ClipTransform:
    """Decoded samples to `image` (B, C, size, size), normalised, and `tokens` (B, N); augmented for training."""

    fields = ("image", "text")

    def __init__(self, config: CLIPConfig, stored_size: int, tokenizer: TextTokenizer, train: bool) -> None:
        self.config, self.tokenizer, self.train = config, tokenizer, train
        self.size = config.image.image_size
        # the bilinear sampling of augmentation takes detail down to half the size; anything else is scaled with antialiasing first
        self.image_size = stored_size if train and self.size <= stored_size <= 2 * self.size else self.size

    def __call__(self, samples: Samples) -> Batch:
        position, captions = torch.from_numpy(samples.position), samples.fields["text"]
        images = torch.from_numpy(stack_images(samples.fields["image"], self.image_size)).permute(0, 3, 1, 2)
        if self.train:
            images = augment(images, position, self.config.augmentation, size=self.size, seed=samples.seed)
            captions = augment_captions(captions, position, self.config.captions, seed=samples.seed)
        else:
            images = images.float() / 255
        return {"image": normalise(images, self.config), "tokens": self.tokenizer.encode(captions)}


def normalise(images: Tensor, config: CLIPConfig) -> Tensor:
    """Pixels (B, C, H, W) in [0, 1] to zero mean and unit variance."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (config.mean, config.std))
    return (images - mean) / std


class CLIP(Task):
    """The task: pairs in, two towers out."""

    phases = (Phase(joint=True),)
    frozen_precision = "bf16"  # as a text encoder
    companions = Companions(
        assess="genlib.models.representation.clip_assess:assess",
        sheet="genlib.models.representation.clip_assess:sheet",
        export="genlib.models.representation.clip_export:export",
        graphs="genlib.models.representation.clip_graphs:graphs",
        load_pretrained="genlib.models.representation.clip_import:load_pretrained",
        example="genlib.models.representation.clip:example",
    )

    def __init__(self, config: CLIPConfig, data: DataSpec) -> None:
        super().__init__()
        self.config, self.data = config, data
        image = config.image.build(data.channels, config.embed_dim, config.activation)
        self.net = TwoTowers(image, config.text.build(config.embed_dim, config.activation), config.temperature)
        if config.gradient_checkpointing:
            self.net.image.enable_gradient_checkpointing()  # type: ignore[operator]
            self.net.text.enable_gradient_checkpointing()  # type: ignore[operator]
        self.tokenizer = TextTokenizer(config.text.context_length, load_bpe(Path(config.tokenizer_file)) if config.tokenizer_file else None)

    def prepare(self, source: DataSource) -> None:
        if not self.config.tokenizer_file:
            self.tokenizer.learn(source.captions("train", self.config.tokenizer_captions), self.config.text.vocab_size)
        if self.tokenizer.num_tokens > self.config.text.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.num_tokens} tokens, task.text.vocab_size is {self.config.text.vocab_size}; raise it to that"
            )

    def sizes(self, data: DataSpec) -> Sizes:
        return replace(super().sizes(data), side=self.config.image.image_size)

    def transform(self, train: bool) -> ClipTransform:
        return ClipTransform(self.config, self.data.image_size, self.tokenizer, train)

    def joint_features(self, phase: str, batch: Batch, step: Step) -> Batch:
        image, text, scale = self.net(batch["image"], batch["tokens"])
        return {"image": image, "text": text, "scale": scale.expand(len(image))}

    def joint_loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        scale = batch["scale"][:1]
        return contrastive_loss(batch["image"], batch["text"], scale, valid=batch["valid"]), {"logit_scale": scale[0]}

    def joint_evaluation(self, batch: Batch) -> Metrics:
        return {"loss": contrastive_loss(batch["image"], batch["text"], batch["scale"][:1], valid=batch["valid"])}

    @action
    @torch.no_grad()
    def embed_image(self, *, image: Image) -> Features:
        """Directions (B, D) of images (B, C, H, W) in [0, 1], scaled to the model's size."""
        side = self.config.image.image_size
        if image.shape[-2:] != (side, side):
            image = F.interpolate(image, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return self.net.embed_image(normalise(image.to(self.device), self.config))

    def count_tokens(self, texts: Sequence[str]) -> int:
        return self.tokenizer.count(texts)

    @action
    @torch.no_grad()
    def embed_text(self, *, text: Texts) -> Features:
        """Directions (B, D) of texts."""
        if not text:
            raise ValueError("there is no text to embed; give at least one")
        return torch.cat([self.net.embed_text(self.tokenizer.encode(text[i : i + 1024]).to(self.device)) for i in range(0, len(text), 1024)])

    @action
    @torch.no_grad()
    def classify(self, *, image: Image, labels: Names, templates: Templates = ()) -> Probabilities:
        """Probabilities (B, L) of labels for images (B, C, H, W) in [0, 1]; a label's direction is the mean over templates, if none the recipe's."""
        scale = self.net.logit_scale.exp().clamp(max=100.0)
        return (scale * self.embed_image(image=image) @ self.label_directions(labels, templates).T).softmax(1)

    @torch.no_grad()
    def label_directions(self, labels: Sequence[str], templates: Sequence[str] = ()) -> Tensor:
        """(L,) names -> (L, D): the mean direction over the templates, each `{}` filled with the name."""
        directions = [self.embed_text(text=[template.replace("{}", label) for label in labels]) for template in templates or self.config.templates]
        return F.normalize(torch.stack(directions).mean(0), dim=-1)

    def pixels(self, images: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.config.mean, self.config.std))
        return (images * std + mean).clamp(0, 1)


def example(task: CLIP, size: int) -> Batch:
    """Random images with texts of full length."""
    side, text = task.config.image.image_size, task.config.text
    tokens = torch.ones(size, text.context_length, dtype=torch.int64)
    tokens[:, -1] = text.vocab_size - 1  # the end mark, where the tower reads
    return {"image": torch.rand(size, task.data.channels, side, side), "tokens": tokens}


def clip_tiny() -> Recipe:
    """CLIP on icons in a few minutes on two CPU cores: a residual tower and a one-layer text transformer.

    `python jobs/clip_pretrain.py`, or `make clip` for the whole road. On Font Awesome, which it never saw, with all 1,402 names as
    candidates: image to text R@1 18.5%, R@5 30.2%, R@10 35.6%; text to image R@10 37.1% (two ZeRO-2 workers on two shared cores, 437 s).
    """
    styles = ("fill", "outline", "line", "bold", "light", "thin", "duotone")
    task = CLIPConfig(
        image=ResidualNetwork(),
        text=TextTransformer(context_length=16, vocab_size=2000, width=128, layers=1, heads=4),
        embed_dim=256,
        mean=(0.0,),
        std=(0.4,),
        augmentation=ImageAugmentation(min_scale=0.75, max_scale=1.1, stretch=0.1, degrees=10, shift=0.1, thickness=0.5, outline=0.25, hide=0.3),
        captions=CaptionAugmentation(drop_words=0.3, last_words=styles, drop_last=0.8),
    )
    train = TrainConfig(
        steps=1100,
        global_batch=512,
        precision="bf16",
        optim=OptimConfig(learning_rate=2e-3, beta2=0.98, eps=1e-6, weight_decay=1.0, schedule="cosine", warmup_steps=60, clip_norm=1.0),
        ema_halflife_samples=20_000,
        checkpoint_every_steps=200,
    )
    data = DataConfig(train="icons", image_size=64)
    return Recipe(stages=(Stage(task=task, data=data, train=train),), smoke=_smoke(ResidualNetwork(image_size=32, width=8, heads=2)))


def _smoke(image: VisionTransformer | ResidualNetwork) -> tuple[Stage, ...]:
    """The smallest form of a recipe."""
    text = TextTransformer(context_length=16, vocab_size=600, width=32, layers=1, heads=2)
    task = CLIPConfig(image=image, text=text, embed_dim=16, mean=(0.5,), std=(0.5,))
    train = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(learning_rate=2e-3))
    return (Stage(task=task, data=DataConfig(train="shapes", image_size=32), train=train),)


def _published(image: VisionTransformer, text: TextTransformer, embed_dim: int, learning_rate: float) -> Recipe:
    """Hyperparameters of Radford et al. 2021, tables 18 to 20; steps are 32 epochs of 400 M pairs."""
    optim = OptimConfig(learning_rate=learning_rate, beta2=0.98, eps=1e-6, weight_decay=0.2, schedule="cosine", warmup_steps=2000, clip_norm=1.0)
    train = TrainConfig(steps=390_625, global_batch=32_768, precision="bf16", optim=optim, checkpoint_every_steps=1000)
    augmentation = ImageAugmentation(min_scale=1.0, max_scale=1.05)
    task = CLIPConfig(image=image, text=text, embed_dim=embed_dim, augmentation=augmentation, templates=("a photo of a {}.",))
    small = VisionTransformer(image_size=32, patch_size=8, width=32, layers=2, heads=2)
    return Recipe(stages=(Stage(task=task, data=DataConfig(), train=train),), smoke=_smoke(small))


def clip_vit_b32() -> Recipe:
    """CLIP ViT-B/32, 151,277,313 parameters, as published.

    `ray job submit --working-dir . -- python jobs/clip_pretrain.py --recipe clip_vit_b32 --workers 8 --data.train 'shards/{00000..09999}.tar'`
    """
    return _published(VisionTransformer(), TextTransformer(), 512, 5e-4)


def clip_vit_l14() -> Recipe:
    """CLIP ViT-L/14, 427,616,513 parameters, as published.

    `ray job submit --working-dir . -- python jobs/clip_pretrain.py --recipe clip_vit_l14 --workers 64 --data.train 'shards/{00000..09999}.tar'`
    """
    image = VisionTransformer(patch_size=14, width=1024, layers=24, heads=16)
    return _published(image, TextTransformer(width=768, heads=12), 768, 4e-4)
