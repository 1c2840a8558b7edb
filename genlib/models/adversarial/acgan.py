"""Auxiliary classifier GAN (Odena et al. 2017, arXiv:1610.09585), of convolutions: a discriminator that also says of which class a sample is.

The generator is told a label, the discriminator is not: beside whether a sample is data it says which class it sees. It learns that from data, by
cross-entropy times lambda, and the generator lowers the same of its samples and the labels that they were made for. (In the paper the discriminator
learns classes from fakes too; as they are of no class at first, it does so here from data alone.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig, tunable
from genlib.models.adversarial.base.labelled import Labelled
from genlib.models.adversarial.base.players import Condition
from genlib.models.adversarial.dcgan import ConvGAN, Convolutional
from genlib.models.adversarial.gan import Game
from genlib.models.base.health import Health
from genlib.models.base.labels import check_labelled
from genlib.ports import Image, Probabilities
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassGame(Game):
    """How the players are scored."""

    class_weight: float = tunable(1.0, low=0.1, high=10.0, log=True, above=0)
    """Weight of the class loss in both players' losses, lambda."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ACGANConfig(TaskConfig):
    """The game with convolutional networks."""

    network: Convolutional = field(default_factory=Convolutional)
    """Both players."""
    game: ClassGame = field(default_factory=ClassGame)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image", "label")

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)
        check_labelled(data, "dcgan")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> ACGAN:
        self.check_data(data)
        return ACGAN(self.network, self.game, self.health, data)


class ACGAN(Labelled, ConvGAN):  # type: ignore[override]
    """The task. The discriminator's outputs are the logit of being data, then one of each class."""

    networks: Convolutional
    game: ClassGame

    @property
    def condition_sizes(self) -> tuple[int, int]:
        return super().condition_sizes[0], 0

    def condition(self, batch: Batch) -> tuple[Condition, Condition]:
        return super().condition(batch)[0], ()

    def both(self) -> tuple[nn.Module, nn.Module]:
        classes = len(self.data.class_names)
        return self.networks.generator(self.shape, classes), self.networks.discriminator(self.shape, outputs=1 + classes)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        label, weight = batch["label"], self.game.class_weight
        if phase == "generator":
            logits = self.generator_logits(batch, step)
            class_loss = F.cross_entropy(logits[:, 1:], label, reduction="none")
            return self.passing_loss(logits[:, :1]) + weight * class_loss, {"class_loss": class_loss}
        _, _, real, fake = self.discriminator_logits(batch, step)
        loss, metrics = self.telling_loss(real[:, :1], fake[:, :1], batch, step)
        class_loss = F.cross_entropy(real[:, 1:], label, reduction="none")
        return loss + weight * class_loss, {**metrics, "class_loss": class_loss}

    def judged(self, real: Tensor, fake: Tensor) -> Batch:
        return {**super().judged(real, fake), "real_class": real[:, 1:].argmax(1), "fake_class": fake[:, 1:].argmax(1)}

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """As of all that know classes; and of how many held-out and generated samples the discriminator names the right one."""
        right = {f"{kind}_class_accuracy": (batch[f"{kind}_class"] == batch["label"]).float() for kind in ("real", "fake")}
        return {**super().joint_evaluation(batch), **right}

    @action
    @torch.no_grad()
    def classify(self, *, image: Image) -> Probabilities:
        """Probabilities (B, classes) that images (B, C, side, side) in [0, 1] are of each class, as the discriminator sees them."""
        return self.discriminator(self.fitting(image))[:, 1:].softmax(1)


def acgan() -> Recipe:
    """Handwritten digits of a class that one names, 16 x 16 pixels, by a discriminator that tells classes.

    `python jobs/train.py acgan`. The discriminator names the class of 98.9% of held-out digits and of 99.7% of samples; of 97% of these the nearest
    held-out digit is of the class asked for. Sliced Wasserstein distance of patches 0.037, coverage 0.80, all ten classes; 92 CPU-seconds beside
    other work.
    """
    fast, slow = (OptimConfig(name="adam", learning_rate=rate, beta1=0.5, schedule="cosine") for rate in (1e-3, 4e-4))
    train = TrainConfig(steps=1500, global_batch=64, optim=fast, players={"discriminator": slow}, ema_halflife_samples=4000, evaluate_every_steps=500)
    task = ACGANConfig(network=Convolutional(width=32), game=ClassGame(label_smoothing=0.1))
    same = OptimConfig(name="adam", learning_rate=5e-4, beta1=0.5)
    small = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=same, players={"discriminator": same})
    data = DataConfig(train="digits", image_size=16)
    return Recipe(
        stages=(Stage(task=task, data=data, train=train),),
        smoke=(Stage(task=ACGANConfig(network=Convolutional(latent_dim=8, width=8)), data=data, train=small),),
    )
