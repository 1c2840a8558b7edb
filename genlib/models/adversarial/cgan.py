"""Conditional GAN (Mirza & Osindero 2014, arXiv:1411.1784), of convolutions: samples of a class that one names.

Both players are told the label: the generator beside its noise, the discriminator beside what it sees in the sample. So a sample must be like data of
its class, not like any data. Were the label kept from the discriminator, the generator would have no reason to heed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig
from genlib.models.adversarial.base.labelled import Labelled
from genlib.models.adversarial.base.players import Condition
from genlib.models.adversarial.dcgan import ConvGAN, Convolutional
from genlib.models.adversarial.gan import Game
from genlib.models.base.health import Health
from genlib.models.base.labels import check_labelled
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledConvolutional(Convolutional):
    """Networks of convolutions that are told labels."""

    label_to_discriminator: bool = True
    """Whether the discriminator is told, too; without, nothing asks that a sample be of its class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionalGANConfig(TaskConfig):
    """The game by class."""

    network: LabelledConvolutional = field(default_factory=LabelledConvolutional)
    """Both players."""
    game: Game = field(default_factory=Game)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image", "label")

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)
        check_labelled(data, "dcgan")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> ConditionalGAN:
        self.check_data(data)
        return ConditionalGAN(self.network, self.game, self.health, data)


class ConditionalGAN(Labelled, ConvGAN):  # type: ignore[override]
    """The task."""

    networks: LabelledConvolutional

    @property
    def condition_sizes(self) -> tuple[int, int]:
        classes, _ = super().condition_sizes
        return classes, classes * self.networks.label_to_discriminator

    def condition(self, batch: Batch) -> tuple[Condition, Condition]:
        to_generator, condition = super().condition(batch)
        return to_generator, condition if self.networks.label_to_discriminator else ()


def cgan() -> Recipe:
    """Handwritten digits of a class that one names, 16 x 16 pixels.

    `python jobs/train.py cgan`. A person reads most of them; of 97% the nearest held-out digit is of the class asked for. Sliced Wasserstein distance
    of patches 0.040, coverage 0.70, all ten classes; 100 CPU-seconds beside other work.
    """
    fast, slow = (OptimConfig(name="adam", learning_rate=rate, beta1=0.5, schedule="cosine") for rate in (1e-3, 4e-4))
    train = TrainConfig(steps=1500, global_batch=64, optim=fast, players={"discriminator": slow}, ema_halflife_samples=4000, evaluate_every_steps=500)
    task = ConditionalGANConfig(network=LabelledConvolutional(width=32), game=Game(label_smoothing=0.1))
    same = OptimConfig(name="adam", learning_rate=5e-4, beta1=0.5)
    small = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=same, players={"discriminator": same})
    data = DataConfig(train="digits", image_size=16)
    return Recipe(
        stages=(Stage(task=task, data=data, train=train),),
        smoke=(Stage(task=ConditionalGANConfig(network=LabelledConvolutional(latent_dim=8, width=8)), data=data, train=small),),
    )
