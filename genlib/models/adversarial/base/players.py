"""What the two players have in common, whatever their networks and losses: noise, the held-out scores, and what a generator can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from genlib import random
from genlib.companions import Companions
from genlib.data.transforms.plain import PlainTransform
from genlib.data.transforms.vectors import VectorShape
from genlib.distributed import all_gather
from genlib.metrics.sliced_wasserstein import PATCH, patch_distance, sliced_wasserstein
from genlib.models.adversarial.base.epilogue import Epilogue
from genlib.models.base.health import PLAYERS, Health, course_values, diagnosis, follow, variety
from genlib.nn.batch_norm import batch_norms
from genlib.nn.minibatch_discrimination import MinibatchDiscrimination
from genlib.nn.replay import Replay
from genlib.ports import FrameCount, Sample, SampleStrip, Seed, Seeds, Sizes
from genlib.random import seeded_normal
from genlib.task import Phase, Task, action
from genlib.types import Batch, DataSource, DataSpec, Metrics, Step

MEASURED_SAMPLES = 4096
"""Training samples from which the place and scale of vectors are measured."""


Condition = tuple[Tensor, ...]
"""What a network is told of samples beside them: nothing, or vectors (B, K) float32, such as labels as one-hot vectors."""


class Networks(Protocol):
    """The settings of a pair of networks."""

    member: ClassVar[str]
    """Where batches hold the samples: `x` (B, D) or `image` (B, C, H, W)."""

    @property
    def latent_dim(self) -> int:
        """Numbers that a sample is made from."""
        ...

    def shape(self, data: DataSpec) -> VectorShape:
        """What a sample is. ValueError where the data does not fit the networks."""
        ...

    def transform(self, shape: VectorShape) -> PlainTransform:
        """Decoded samples to batches."""
        ...

    def generator(self, shape: VectorShape, condition: int = 0) -> nn.Module:
        """noise (B, latent_dim), valid (B,) or None, and vectors (B, condition) if there is one -> samples (B, ...), images in [-1, 1]."""
        ...

    def discriminator(self, shape: VectorShape, condition: int = 0) -> nn.Module:
        """samples (B, ...), valid (B,) or None, and vectors (B, condition) if it has a condition -> logits (B, 1), high for data.

        `valid` is for batch normalisation, see there.
        """
        ...


class TwoPlayers(Task):
    """Base of the tasks, which give the loss: `discriminator` phase at each step, `generator` phase at every `d_steps`-th."""

    objective = ("sliced_wasserstein", "min")
    companions = Companions(
        assess="genlib.models.adversarial.base.assess:assess",
        sheet="genlib.models.adversarial.base.assess:sheet",
        graphs="genlib.models.adversarial.base.graphs:graphs",
        example="genlib.models.adversarial.base.players:example",
    )
    centre: Tensor
    """(1,) or (D,): subtracted from samples before the networks see them."""
    scale: Tensor
    """(1,): divides samples after that."""
    progress: Tensor
    """(1,): share of the run that was done at the last step; the monitor judges no beginner."""
    course: Tensor
    """(2, 4): how training goes of late, see `genlib.models.base.health.follow`, a row each of the discriminator and the generator."""
    replay: Replay | None
    """Earlier fakes, of which the discriminator gets to see a share; None where the family keeps none."""

    def __init__(self, networks: Networks, d_steps: int, health: Health, data: DataSpec, upstream: Mapping[str, Task] | None = None) -> None:
        super().__init__(upstream)
        self.networks, self.health, self.data, self.shape = networks, health, data, networks.shape(data)
        self.generator, self.discriminator = self.both()
        self.replay, self.replay_share = None, 0.0
        self.phases = (Phase(name="discriminator", player="discriminator"), Phase(name="generator", player="generator", every=d_steps))
        effects = ["batch normalisation takes its mean and variance over each micro-batch alone"] if batch_norms(self) else []
        if any(isinstance(module, MinibatchDiscrimination) for module in self.modules()):
            effects.append("minibatch discrimination compares the samples of each micro-batch alone")
        if (group := max((module.group for module in self.modules() if isinstance(module, Epilogue)), default=1)) > 1:
            effects.append(f"groups of {group} samples, whose spread the discriminator is told, are of one micro-batch each")
        self.accumulation_effect = ", and ".join(effects)
        self.register_buffer("centre", torch.full((1 if self.shape.is_image else self.shape.size,), 0.5))
        self.register_buffer("scale", torch.full((1,), 0.5))
        self.register_buffer("progress", torch.zeros(1))
        self.register_buffer("course", torch.zeros(len(PLAYERS), 4))
        self.register_load_state_dict_pre_hook(_start_course)

    def both(self) -> tuple[nn.Module, nn.Module]:
        """Generator and discriminator, new."""
        to_generator, to_discriminator = self.condition_sizes
        return self.networks.generator(self.shape, to_generator), self.networks.discriminator(self.shape, to_discriminator)

    @property
    def condition_sizes(self) -> tuple[int, int]:
        """Numbers that generator and discriminator are told of a sample; 0 is nothing."""
        return 0, 0

    def condition(self, batch: Batch) -> tuple[Condition, Condition]:
        """What generator and discriminator are told of each sample of a batch; the fake in its place is judged by the same."""
        return (), ()

    def sizes(self, data: DataSpec) -> Sizes:
        return self.shape.port_sizes(data)

    def prepare(self, source: DataSource) -> None:
        """Measures where vectors lie and how far they reach; pixels are known to be in [0, 1]."""
        if self.shape.is_image:
            return
        batches = source.batches("train", 256, transform=self.transform(train=False))
        some = [batch["x"][batch["valid"]] for batch in islice(batches, -(-min(MEASURED_SAMPLES, self.data.num_samples) // 256))]
        x = torch.cat(some)
        self.centre.copy_(x.mean(0))
        self.scale.fill_(max((x - x.mean(0)).square().mean().sqrt().item(), 1e-6))

    def transform(self, train: bool) -> PlainTransform:
        return self.networks.transform(self.shape)

    def real(self, batch: Batch) -> Tensor:
        """The batch's samples as networks see them."""
        return (batch[self.networks.member] - self.centre) / self.scale

    def in_data_units(self, made: Tensor) -> Tensor:
        """Output of the generator in the units of the data; images in [0, 1]."""
        x = made.float() * self.scale + self.centre
        return x.clamp(0, 1) if self.shape.is_image else x

    @property
    def noise_size(self) -> int:
        """Numbers of noise that the generator makes a sample from."""
        return self.networks.latent_dim

    def noise(self, batch: Batch, seed: int, stream: str) -> Tensor:
        """(B, noise_size), keyed by position."""
        return random.normal(batch["position"], (self.noise_size,), seed=seed, stream=f"latents of the {stream}")

    def begin(self, batch: Batch, step: Step) -> None:
        """Notes, at the discriminator's phase, where training stands."""
        self.progress.fill_(step.progress)

    def discriminator_logits(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(real, fake, logits of real, logits of fake) of the discriminator's phase; logits are (B, 1), and the two batches are normalised apart."""
        self.begin(batch, step)
        valid, real, (to_generator, condition) = batch["valid"], self.real(batch), self.condition(batch)
        with torch.no_grad():
            fake = self.generator(self.noise(batch, step.seed, "discriminator"), valid, *to_generator)
            fake, *condition_of_fake = self.replayed((fake, *condition), batch, step)
        return real, fake, self.discriminator(real, valid, *condition), self.discriminator(fake, valid, *condition_of_fake)

    def keep(self, capacity: int, share: float) -> None:
        """Lets the discriminator see again what the generator made before: a share of its fakes is of the last `capacity` ones."""
        sides = self.shape.sides if self.networks.member == "image" else (self.shape.size,)
        condition = self.condition_sizes[1]
        self.replay, self.replay_share = Replay(capacity, [sides, (condition,)] if condition else [sides]), share

    def replayed(self, fresh: Sequence[Tensor], batch: Batch, step: Step) -> Sequence[Tensor]:
        """Fakes and what the discriminator is told of them, each (B, ...), some of them earlier ones."""
        if self.replay is None:
            return fresh
        self.replay.put(fresh, batch["position"], batch["valid"])
        return self.replay.mixed(fresh, batch["position"], share=self.replay_share, seed=step.seed)

    def observe(self, phase: str, loss: Tensor, grad_norm: float) -> None:
        if phase in PLAYERS:
            follow(self.course[PLAYERS.index(phase)], loss, grad_norm)
        if self.replay is not None:
            self.replay.step()

    def generator_logits(self, batch: Batch, step: Step) -> Tensor:
        """The discriminator's logits (B, 1) on the fakes of the generator's phase."""
        valid, (to_generator, condition) = batch["valid"], self.condition(batch)
        return self.discriminator(self.generator(self.noise(batch, step.seed, "generator"), valid, *to_generator), valid, *condition)

    def evaluation_features(self, batch: Batch) -> Batch:
        """Held-out samples and as many generated ones, (B, D) each, the discriminator's logits on both, and labels where there are some."""
        to_generator, condition = self.condition(batch)
        made, real = self.generator(self.noise(batch, 0, "evaluation"), None, *to_generator), batch[self.networks.member]
        logits = (self.discriminator(x, batch["valid"], *condition) for x in (self.real(batch), made))
        samples = {"real": real.float().flatten(1), "fake": self.in_data_units(made).flatten(1)}
        labels = {"label": batch["label"]} if "label" in batch else {}
        return {**samples, **self.judged(*logits), **labels}

    def judged(self, real: Tensor, fake: Tensor) -> Batch:
        """What an evaluation needs to know of all that the discriminator says of held-out samples and of generated ones, (B, outputs) each."""
        return {"real_logit": real[:, 0], "fake_logit": fake[:, 0]}

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """Of as many generated samples as held-out ones: their sliced Wasserstein distance and variety, and the discriminator's logits on both;
        and how training went of late.
        """
        logits = {name: batch[name] for name in ("real_logit", "fake_logit")}
        valid = all_gather(batch["valid"])
        real, fake = (all_gather(batch[name])[valid] for name in ("real", "fake"))
        label = all_gather(batch["label"])[valid] if "label" in batch else None
        return {
            "sliced_wasserstein": self.distance(real, fake),
            **self.variety(real, fake, label),
            **logits,
            **course_values(self.course),
            "progress": self.progress[0],
        }

    def variety(self, real: Tensor, fake: Tensor, label: Tensor | None) -> Metrics:
        """Scalars of held-out samples (N, D), with their labels (N,) if there are some, and of one generated in the place of each (N, D)."""
        return variety(real, fake, label)

    def distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """Sliced Wasserstein distance of samples (N, D), by patches if they are images that hold some; a scalar."""
        if self.shape.image_size < PATCH:
            return sliced_wasserstein(real, fake)
        return patch_distance(self.shape.image(real), self.shape.image(fake))

    def divergence_reason(self, values: Mapping[str, float]) -> str:
        return diagnosis(values, self.health)

    @action
    @torch.no_grad()
    def generate(self, *, seed: Seeds) -> Sample:
        """Images (len(seed), C, H, W) in [0, 1], or vectors (len(seed), D), each of its own seed."""
        return self.generated(self.latents(seed))

    @action(joint=True)
    @torch.no_grad()
    def interpolate(self, *, first: Seed, last: Seed, steps: FrameCount = 8) -> SampleStrip:
        """The samples of two seeds and those between, `steps` in all, along the sphere that noise lies on (White 2016, arXiv:1609.04468)."""
        return self.generated(self.way(first, last, steps))

    def latents(self, seed: Sequence[int]) -> Tensor:
        """Noise (len(seed), noise_size), each of its own seed."""
        return seeded_normal(seed, (self.noise_size,), self.device)

    def way(self, first: int, last: int, steps: int) -> Tensor:
        """Noise (steps, noise_size) on the way from one seed's to another's along the sphere. ValueError where the steps are too few."""
        if steps < 2:
            raise ValueError(f"steps is {steps}; from one sample to another there are at least 2")
        a, b = self.latents([first, last])
        angle = torch.acos((a @ b / (a.norm() * b.norm())).clamp(-1, 1)).clamp(min=1e-4)
        share = torch.linspace(0, 1, steps, device=self.device)[:, None]
        return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)

    def generated(self, noise: Tensor, *condition: Tensor) -> Tensor:
        """Samples of noise (B, noise_size) and of what the generator is told, in the data's units and shape; without gradient."""
        x = self.in_data_units(self.generator(noise, None, *condition))
        return self.shape.image(x.flatten(1)) if self.shape.is_image else x


def _start_course(task: TwoPlayers, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A load-state-dict pre-hook: a checkpoint that was written before there was a course begins one."""
    state.setdefault(f"{prefix}course", torch.zeros_like(task.course))


def example(task: TwoPlayers, size: int) -> Batch:
    """See `Companions.example`."""
    sides = task.shape.sides if task.networks.member == "image" else (task.shape.size,)
    return {task.networks.member: torch.rand(size, *sides)}
