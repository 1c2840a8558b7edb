"""SimCLR: what an image shows, learnt without labels from two views of it (Chen et al. 2020, arXiv:2002.05709).

Two random crops and recolourings of an image are the same thing, views of other images are not: the loss (NT-Xent) asks each view
to name its partner among all views of the global batch. It is taken behind a small projection head, which may forget what the views
do not share; the features before the head are what other uses read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.companions import Companions
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig, limited, tunable
from genlib.data.transforms.augment import ImageAugmentation, Views
from genlib.data.transforms.plain import stack_images, to_float
from genlib.distributed import all_gather, rank
from genlib.functional.nt_xent import nt_xent
from genlib.metrics.neighbours import nearest
from genlib.metrics.probe import vote_of_others
from genlib.nn.residual_tower import RELU_GAIN, ResidualBlock, StandardisedConv
from genlib.ports import Count, Features, Gallery, Image, Ranking, Sizes
from genlib.recipe import Recipe, Stage
from genlib.task import Phase, Task, action
from genlib.types import Batch, DataSpec, Metrics, Samples, Step

NEIGHBOURS = 10
"""That vote on the class of an image in `evaluate`, of those of its batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimCLRConfig(TaskConfig):
    """An encoder, a projection head, and what makes two views of an image."""

    image_size: int = limited(0, at_least=0)
    """Pixels a side; 0 is the data's own."""
    width: int = limited(32, at_least=4)
    """Channels of the first stage; each later one doubles them, and its last is the number of features."""
    layers: tuple[int, ...] = (1, 1, 1)
    """Residual blocks of each stage. The stem and every stage after the first halve the map."""
    hidden: int = limited(256, at_least=1)
    """Features inside the projection head."""
    embed_dim: int = limited(64, at_least=2)
    """Numbers that the head makes of an image, on whose cosines the loss is."""
    temperature: float = tunable(0.2, low=0.05, high=1.0, log=True, above=0)
    """Divides cosines; the lower, the more the loss cares for the nearest of the other images alone."""
    augmentation: ImageAugmentation = field(default_factory=lambda: ImageAugmentation(max_scale=2.0, stretch=0.2, degrees=15, shift=0.2))
    """What makes a view of an image."""

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def validate(self) -> None:
        if not self.layers or min(self.layers) < 1:
            raise ValueError(f"task.layers {self.layers}: every stage needs at least one block; give for example 1 1 1")

    @property
    def features(self) -> int:
        """Numbers that describe an image."""
        return self.width * 2 ** (len(self.layers) - 1)

    def check_data(self, data: DataSpec) -> None:
        side, halvings = self.image_size or data.image_size, len(self.layers)
        if not side:
            raise ValueError("SimCLR learns from images of one size, which the samples are not; give --data.image-size, or a set like shapes")
        if side < 2**halvings:
            raise ValueError(f"images of {side} pixels cannot be halved {halvings} times; give fewer stages in task.layers, or larger images")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> SimCLR:
        self.check_data(data)
        return SimCLR(self, data)


class ViewsTransform(Views):
    """As `Views`: image (B, 2, C, size, size) and labels; for evaluation also `plain` (B, C, size, size), unchanged."""

    def __init__(self, config: ImageAugmentation, size: int, stored: int, plain: bool) -> None:
        # the bilinear sampling of views takes detail down to half the size; anything else is scaled with antialiasing first
        super().__init__(config, size, stored=stored if size <= stored <= 2 * size else size)
        self.plain = plain

    def __call__(self, samples: Samples) -> Batch:
        plain = {"plain": to_float(stack_images(samples.fields["image"], self.size))} if self.plain else {}
        return {**super().__call__(samples), **plain}


class SimCLRNetwork(nn.Module):
    """(B, channels, H, W), zero being the background -> features (B, width of the last stage), projections (B, embed_dim) of unit length."""

    def __init__(self, channels: int, config: SimCLRConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = [StandardisedConv(channels, config.width, 3, stride=2, scale=RELU_GAIN), nn.ReLU(inplace=True)]
        for stage, count in enumerate(config.layers):
            out = config.width * 2**stage
            blocks += [ResidualBlock(out // 2, out, stride=2) if stage else ResidualBlock(out, out)]
            blocks += [ResidualBlock(out, out) for _ in range(count - 1)]
        self.encoder = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Linear(config.features, config.hidden), nn.ReLU(inplace=True), nn.Linear(config.hidden, config.embed_dim))

    def features(self, image: Tensor) -> Tensor:
        """Features alone, fp32."""
        return self.encoder(image.contiguous(memory_format=torch.channels_last)).mean((2, 3)).float()

    def forward(self, image: Tensor) -> Tensor:
        """Projections alone, fp32."""
        return F.normalize(self.head(self.features(image)).float(), dim=1)


class SimCLR(Task):
    """The task: images in, an encoder out."""

    phases = (Phase(joint=True),)
    objective = ("knn_accuracy", "max")  # the loss is no measure: a higher temperature alone raises it
    companions = Companions(
        assess="genlib.models.representation.simclr_assess:assess",
        sheet="genlib.models.representation.simclr_assess:sheet",
        graphs="genlib.models.representation.image_graphs:of_encoder",
        example="genlib.models.representation.simclr:example",
    )

    def __init__(self, config: SimCLRConfig, data: DataSpec) -> None:
        super().__init__()
        self.config, self.data = config, data
        self.image_size = config.image_size or data.image_size
        self.net = SimCLRNetwork(data.channels, config)
        if not data.class_names:
            self.objective = ("matched", "max")

    def sizes(self, data: DataSpec) -> Sizes:
        return replace(super().sizes(data), side=self.image_size)

    def transform(self, train: bool) -> ViewsTransform:
        return ViewsTransform(self.config.augmentation, self.image_size, self.data.image_size, plain=not train)

    def joint_features(self, phase: str, batch: Batch, step: Step) -> Batch:
        first, second = self.net(batch["image"].flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        return {"first": first, "second": second}

    def joint_loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        first, second = batch["first"], batch["second"]
        loss = nt_xent(first, second, self.config.temperature, valid=batch["valid"])
        return loss, {"alignment": (first * second).sum(1).detach()}

    def evaluation_features(self, batch: Batch) -> Batch:
        made = self.joint_features("train", batch, Step(0, 1))
        if "label" in batch and self.data.class_names:
            made |= {"code": self.net.features(batch["plain"]), "label": batch["label"]}
        return made

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """The loss; how often the nearest view is the same image's; and how often neighbours in the batch, by plain images, know the class."""
        first, second = batch["first"], batch["second"]
        loss = nt_xent(first, second, self.config.temperature, valid=batch["valid"])
        valid = all_gather(batch["valid"])
        cosine = (first @ all_gather(second).T).masked_fill(~valid, -2.0)
        own = torch.arange(len(first), device=first.device) + rank() * len(first)
        values = {"loss": loss, "matched": (cosine.argmax(1) == own).float()}
        if "code" in batch:
            codes, labels = all_gather(batch["code"]), all_gather(batch["label"])
            right = torch.zeros_like(valid, dtype=torch.float32)
            if valid.sum() > 1:
                right[valid] = (vote_of_others(codes[valid], labels[valid], k=NEIGHBOURS) == labels[valid]).float()
            values["knn_accuracy"] = right[own]
        return values

    @action
    @torch.no_grad()
    def embed(self, *, image: Image) -> Features:
        """Features (B, D) of images (B, C, H, W) in [0, 1], scaled to the encoder's size; compare them by cosine."""
        side, image = self.image_size, image.to(self.device)
        if image.shape[-2:] != (side, side):
            image = F.interpolate(image, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return self.net.features(image)

    @action
    @torch.no_grad()
    def neighbours(self, *, image: Image, candidates: Gallery, count: Count = 5) -> Ranking:
        """Numbers (B, count) of the candidates (N, C, H, W) that are most like each image (B, C, H, W), both in [0, 1], the likest first."""
        codes, others = (F.normalize(self.embed(image=x), dim=1) for x in (image, candidates))
        return nearest(codes, others, count)


def example(task: SimCLR, size: int) -> Batch:
    """See `Companions.example`."""
    return {"image": torch.rand(size, 2, task.data.channels, task.image_size, task.image_size)}


def simclr() -> Recipe:
    """Features of coloured shapes, 32 x 32 pixels, that tell their kinds apart without having seen a label.

    `python jobs/train.py simclr`, or of other images `--data.train fashion_mnist`. On held-out shapes a linear probe is right for 99.8%,
    on an untrained encoder for 55.7%; a vote of 20 neighbours for 99.0%, untrained 71.4% (one worker, 115 s beside other work).
    """
    augmentation = ImageAugmentation(min_scale=0.8, max_scale=1.6, stretch=0.1, degrees=20, shift=0.2, flip=0.5, color=0.8, grey=0.3)
    optim = OptimConfig(learning_rate=6e-3, weight_decay=0.01, schedule="cosine", warmup_steps=20, clip_norm=1.0)
    train = TrainConfig(steps=500, global_batch=256, optim=optim, checkpoint_every_steps=200)
    small = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(learning_rate=2e-3))
    tiny = SimCLRConfig(width=8, layers=(1, 1), hidden=16, embed_dim=8)
    return Recipe(
        stages=(Stage(task=SimCLRConfig(width=16, augmentation=augmentation), data=DataConfig(train="shapes"), train=train),),
        smoke=(Stage(task=tiny, data=DataConfig(train="digits"), train=small),),
    )
