"""Generative adversarial networks (Goodfellow et al. 2014, arXiv:1406.2661), of dense layers.

A discriminator learns to tell data from what a generator makes of noise, and the generator learns to pass. Each has its own turn and its own
optimizer, and in the other's turn it stands still. Where the discriminator is the best possible it says p_data / (p_data + p_generator),
and where both are at their best it can say no more than one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from genlib.config import Config, DataConfig, OptimConfig, TaskConfig, TrainConfig, limited, tunable
from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.functional.adversarial import noisy_targets, non_saturating_generator, saturating_generator, targeted_discriminator
from genlib.models.adversarial.base.latent_arithmetic import LatentArithmetic
from genlib.models.adversarial.base.players import Networks, TwoPlayers
from genlib.models.base.health import Health
from genlib.nn.minibatch_discrimination import MinibatchDiscrimination
from genlib.ports import Features, Sample
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step

LEAK = 0.2
"""Slope of LeakyReLU below zero (Radford et al. 2016, arXiv:1511.06434, section 3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dense(Config):
    """Networks of dense layers, on vectors or flattened images."""

    member: ClassVar[str] = "x"

    image_size: int = limited(0, at_least=0)
    """Pixels a side of images; 0 is the data's own."""
    latent_dim: int = tunable(32, low=2, high=128, log=True, at_least=1)
    """Numbers that a sample is made from."""
    width: int = tunable(128, low=32, high=512, log=True, at_least=1)
    """Features of each hidden layer."""
    layers: int = limited(3, at_least=1)
    """Hidden layers of each network."""
    minibatch_kernels: int = limited(0, at_least=0)
    """Numbers by which the discriminator sees how alike the samples of a batch are, by minibatch discrimination; 0 is without."""

    def shape(self, data: DataSpec) -> VectorShape:
        return VectorShape.of(data, self.image_size)

    def transform(self, shape: VectorShape) -> VectorTransform:
        return VectorTransform(shape)

    def generator(self, shape: VectorShape, condition: int = 0) -> nn.Module:
        end = nn.Tanh() if shape.is_image else nn.Identity()
        return DenseNetwork(self.latent_dim + condition, self.width, self.layers, shape.size, nn.ReLU(), end)

    def discriminator(self, shape: VectorShape, condition: int = 0, outputs: int = 1) -> nn.Module:
        return DenseDiscriminator(shape.size, self.width, self.layers, outputs, condition, self.minibatch_kernels)


class DenseNetwork(nn.Module):
    """(B, inputs) -> (B, outputs) float32, through so many hidden layers of so many features; it normalises nothing.

    What it is told comes beside what it is given, and counts among the inputs.
    """

    def __init__(self, inputs: int, width: int, layers: int, outputs: int, between: nn.Module, end: nn.Module) -> None:
        super().__init__()
        sizes = [inputs, *[width] * layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.last, self.between, self.end = nn.Linear(width, outputs), between, end

    def forward(self, x: Tensor, valid: Tensor | None = None, *condition: Tensor) -> Tensor:
        """See the class."""
        return self.end(self.last(self.features(torch.cat([x, *condition], 1))).float())

    def features(self, x: Tensor) -> Tensor:
        """What the last layer is given, (B, width)."""
        for layer in self.hidden:
            x = self.between(layer(x))
        return x


class DenseDiscriminator(DenseNetwork):
    """samples (B, inputs) -> logits (B, outputs) float32. What it is told joins behind the hidden layers, which see the sample alone."""

    def __init__(self, inputs: int, width: int, layers: int, outputs: int, condition: int = 0, kernels: int = 0) -> None:
        super().__init__(inputs, width, layers, outputs, nn.LeakyReLU(LEAK), nn.Identity())
        self.compare = MinibatchDiscrimination(width, kernels) if kernels else None
        seen = width + kernels
        self.joint = Joint(nn.Linear(seen, width), condition, width) if condition else None
        if kernels and not condition:
            self.last = nn.Linear(seen, outputs)

    def forward(self, x: Tensor, valid: Tensor | None = None, *condition: Tensor) -> Tensor:
        """See the class."""
        x = self.features(x)
        x = self.compare(x, valid) if self.compare else x
        return self.last(self.joint(x, valid, *condition) if self.joint else x).float()


class Joint(nn.Module):
    """A layer of features that sees what is told beside them, as Mirza & Osindero 2014 (arXiv:1411.1784) join both; of a map at every place of it,
    as Reed et al. 2016 (arXiv:1605.05396) do.

    Features (B, width, ...), and vectors (B, condition) -> (B, width, ...).
    """

    def __init__(self, layer: nn.Module, condition: int, width: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.condition, self.norm, self.act = layer, nn.Linear(condition, width, bias=False), norm, nn.LeakyReLU(LEAK)

    def forward(self, x: Tensor, valid: Tensor | None, condition: Tensor) -> Tensor:
        """See the class; `valid` as of `BatchNorm`."""
        x = self.layer(x)
        x = x + self.condition(condition).view(*x.shape[:2], *[1] * (x.dim() - 2))
        return self.act(x if self.norm is None else self.norm(x, valid))


@dataclass(frozen=True, kw_only=True, slots=True)
class Game(Config):
    """How the players are scored."""

    d_steps: int = tunable(1, low=1, high=5, at_least=1)
    """Updates of the discriminator for each one of the generator; a step of training is one of the discriminator."""
    saturating: bool = False
    """The generator lowers log(1 - D), the minimax game, whose gradient vanishes against a good discriminator; else it raises log D."""
    label_smoothing: float = tunable(0.0, low=0.0, high=0.3, at_least=0, below=1)
    """How far below 1 the discriminator's target for data is; that for fakes stays 0 (Salimans et al. 2016, arXiv:1606.03498)."""
    label_flips: float = tunable(0.0, low=0.0, high=0.1, at_least=0, below=0.5)
    """Share of samples whose target is that of the other kind, in the discriminator's loss."""
    replay: int = limited(0, at_least=0)
    """Fakes that are kept, the oldest going first, so that the discriminator sees some of them again (experience replay); 0 keeps none."""
    replay_share: float = limited(0.5, above=0, below=1)
    """Share of the discriminator's fakes that are kept ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GANConfig(TaskConfig):
    """The game with dense networks."""

    network: Dense = field(default_factory=Dense)
    """Both players."""
    game: Game = field(default_factory=Game)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image|array",)

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> DenseGAN:
        return DenseGAN(self.network, self.game, self.health, data)


class GAN(TwoPlayers):
    """The task, whatever the networks are."""

    def __init__(self, networks: Networks, game: Game, health: Health, data: DataSpec, upstream: Mapping[str, Task] | None = None) -> None:
        super().__init__(networks, game.d_steps, health, data, upstream)
        self.game = game
        if game.replay:
            self.keep(game.replay, game.replay_share)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        if phase == "generator":
            return self.passing_loss(self.generator_logits(batch, step)), {}
        _, _, real, fake = self.discriminator_logits(batch, step)
        return self.telling_loss(real, fake, batch, step)

    def passing_loss(self, logits: Tensor) -> Tensor:
        """What the generator lowers (B,), of the discriminator's logits (B, 1) on its fakes."""
        return saturating_generator(logits) if self.game.saturating else non_saturating_generator(logits)

    def telling_loss(self, real: Tensor, fake: Tensor, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """What the discriminator lowers (B,), of its logits (B, 1) on data and on fakes; and on how many it is right."""
        on_real, on_fake = self.targets(batch, step.seed)
        loss = targeted_discriminator(real, on_real) + targeted_discriminator(fake, on_fake)
        return loss, {"real_accuracy": (real[:, 0] > 0).float(), "fake_accuracy": (fake[:, 0] <= 0).float()}

    def targets(self, batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
        """The discriminator's targets for data and for fakes, (B,) each."""
        targets = partial(noisy_targets, batch["position"], smoothing=self.game.label_smoothing, flips=self.game.label_flips, seed=seed)
        return targets(real=True), targets(real=False)

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """That of `TwoPlayers`, and the discriminator's accuracy on held-out and on generated samples."""
        values = super().joint_evaluation(batch)
        return {**values, "real_accuracy": (values["real_logit"] > 0).float(), "fake_accuracy": (values["fake_logit"] < 0).float()}


class DenseGAN(LatentArithmetic, GAN):
    """The task with dense networks."""

    @action
    @torch.no_grad()
    def embed(self, *, x: Sample) -> Features:
        """Features (B, width) that the discriminator sees in vectors or flattened images x (B, D) before it decides."""
        return self.discriminator.features(self.real({"x": x.to(self.device)})).float()  # type: ignore[operator]


def gan() -> Recipe:
    """Points around eight places of the plane, the test of whether a generator covers every mode.

    `python jobs/train.py gan`. All eight places are covered, in four of four seeds; sliced Wasserstein distance 0.045 (0.05 to 0.1 with other
    seeds) on a ring of radius 2, coverage 0.78; 20 CPU-seconds.
    """
    return _points(Game(label_smoothing=0.1))


def gan_minimax() -> Recipe:
    """The same points by the minimax game, whose generator lowers log(1 - D): beside `gan`, what the other loss is for.

    `python jobs/train.py gan_minimax`. Here it does as well, as the discriminator is never sure: all eight places are covered, sliced Wasserstein
    distance 0.051 on a ring of radius 2, coverage 0.78; 31 CPU-seconds beside other work.
    """
    return _points(Game(label_smoothing=0.1, saturating=True))


def _points(game: Game) -> Recipe:
    # without momentum the players circle each other less (Mescheder et al. 2018, arXiv:1801.04406)
    optim = OptimConfig(name="adam", learning_rate=2e-3, beta1=0.0, beta2=0.9, schedule="cosine")
    train = TrainConfig(
        steps=2500, global_batch=128, optim=optim, players={"discriminator": optim}, ema_halflife_samples=10_000, evaluate_every_steps=500
    )
    same = OptimConfig(name="adam", learning_rate=2e-3, beta1=0.0, beta2=0.9)
    small = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=same, players={"discriminator": same})
    data, tiny = DataConfig(train="rings2d"), GANConfig(network=Dense(latent_dim=4, width=16, layers=2), game=Game(saturating=game.saturating))
    return Recipe(
        stages=(Stage(task=GANConfig(network=Dense(width=64), game=game), data=data, train=train),),
        smoke=(Stage(task=tiny, data=data, train=small),),
    )
