"""StyleGAN 1 to 3 (Karras et al. 2020, arXiv:1912.04958), and the game of R3GAN (Huang et al. 2024, arXiv:2501.05441) with the same networks.

Beside the two players' own phases are two that come at every k-th step alone, with k times the weight: the discriminator's gradient at data is
kept small (R1), and a step of a fixed size in the space of styles is to change an image by a fixed amount wherever it is taken (path length).
A penalty of every step, as StyleGAN 1 and R3GAN have it, is part of the discriminator's own phase.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genlib import distributed, random
from genlib.config import TaskConfig
from genlib.functional.adaptive_augment import PRESETS, augmented
from genlib.functional.adversarial import non_saturating_discriminator, non_saturating_generator, relativistic, squared_gradient
from genlib.functional.diff_augment import diff_augmented
from genlib.models.adversarial.base.growing import GrowingPlayers
from genlib.models.adversarial.base.growing_discriminator import GrowingDiscriminator
from genlib.models.adversarial.stylegan.discriminator import StyleDiscriminator
from genlib.models.adversarial.stylegan.generator import Generator
from genlib.models.adversarial.stylegan.projection import projected
from genlib.models.adversarial.stylegan.settings import StyleGame, StyleNetworks
from genlib.models.adversarial.stylegan.synthesis2 import Noise
from genlib.models.base.health import Health
from genlib.nn.augment_strength import AugmentStrength
from genlib.nn.step_sum import StepSum, moved, taken
from genlib.ports import (
    Code,
    Features,
    FrameCount,
    Image,
    LayerNoise,
    Seed,
    Seeds,
    Sizes,
    Steps,
    Strip,
    StyleLayer,
    StyleSeeds,
    Truncation,
)  # fmt: skip
from genlib.random import SeededNoise
from genlib.task import Phase, Task, action
from genlib.types import Batch, DataSpec, Metrics, Step

DIFF_CHANGES = ("color", "translation", "cutout")
W_DECAY, PATH_DECAY = 0.998, 0.99
"""Of the running means of w and of path lengths, a step or a phase."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleGANConfig(TaskConfig):
    """The networks and the game."""

    network: StyleNetworks = field(default_factory=StyleNetworks)
    """Both players."""
    game: StyleGame = field(default_factory=StyleGame)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image",)
    zero3_refusal: ClassVar[str] = "its penalties go back through a network twice, and the weights are gone after the first time"

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> StyleGAN:
        return StyleGAN(self.network, self.game, self.health, data)


class StyleGAN(GrowingPlayers):
    """The task."""

    networks: StyleNetworks
    generator: Generator
    discriminator: StyleDiscriminator | GrowingDiscriminator
    averaged = ("generator",)
    companions = replace(
        GrowingPlayers.companions,
        assess="genlib.models.adversarial.stylegan.assess:assess",
        export="genlib.models.adversarial.stylegan.files:export",
        graphs="genlib.models.adversarial.stylegan.graphs:graphs",
        load_pretrained="genlib.models.adversarial.stylegan.files:load_pretrained",
    )
    export_is_a_model = True
    path_mean: Tensor
    """(1,): the running mean of path lengths."""

    def __init__(self, networks: StyleNetworks, game: StyleGame, health: Health, data: DataSpec) -> None:
        super().__init__(networks, 1, health, data)
        self.game, self.seen_styles, self.seen_paths = game, StepSum(networks.style_dim), StepSum()
        own, every = {phase.name: phase for phase in self.phases}, game.penalty_every
        found = [own["discriminator"]]
        if game.gamma and every > 1:
            found.append(Phase(name="penalty", player="discriminator", every=every, loss_weight=every))
        found.append(own["generator"])
        if game.path_weight:
            found.append(Phase(name="path", player="generator", every=game.path_every, loss_weight=game.path_every))
        self.phases = tuple(found)
        self.register_buffer("path_mean", torch.zeros(1))
        self.augment = AugmentStrength(target=game.augment_target, speed_samples=game.augment_images) if game.augment == "ada" else None

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return getattr(self, f"{phase}_loss")(batch, step)

    def discriminator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """Data from fakes; with a penalty of every step also that."""
        self.begin(batch, step)
        with torch.no_grad():
            fake = self.fakes(batch, step, "discriminator")
        real, fake = self.logits(self.seen(batch, step), batch, step, "real"), self.logits(fake, batch, step, "fake")
        if self.augment:
            self.augment.observe(real, batch["valid"])
        loss = relativistic(real, fake) if self.game.loss == "relativistic" else non_saturating_discriminator(real, fake)
        values = {"real_accuracy": (real[:, 0] > 0).float(), "fake_accuracy": (fake[:, 0] < 0).float(), **self.growth_values()}
        if self.augment:
            values["augment"] = self.augment.strength.clone()
        if self.game.gamma and self.game.penalty_every == 1:
            penalty, found = self.penalty_loss(batch, step)
            return loss + penalty, {**values, **found}
        return loss, values

    def generator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """Fakes to pass for data."""
        fake = self.logits(self.fakes(batch, step, "generator"), batch, step, "generator")
        if self.game.loss != "relativistic":
            return non_saturating_generator(fake), {}
        return relativistic(fake, self.logits(self.seen(batch, step), batch, step, "beside")), {}

    def penalty_loss(self, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """The discriminator's slope at data, R1 (Mescheder et al. 2018, arXiv:1801.04406), maybe at fakes too, R2."""
        images = {"r1": self.seen(batch, step)}
        if self.game.penalise_fakes:
            with torch.no_grad():
                images["r2"] = self.fakes(batch, step, "penalty")
        found, still = {}, torch.zeros_like(batch["weight"])
        for name, image in images.items():
            image = image.detach().requires_grad_()
            logits = self.logits(image, batch, step, name)
            found[name], still = squared_gradient(logits, image), still + 0 * logits[:, 0]
        return self.game.gamma / 2 * torch.stack([*found.values()]).sum(0) + still, found

    def path_loss(self, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """How far image changes of random directions lie from their running mean, as lengths in the space of styles, for some of the rows."""
        chosen, counts, share = self.some_rows(batch)
        rows = {name: value[chosen] for name, value in batch.items() if name in ("position", "valid", "label")}
        ws = self.styles(rows, step, "path")
        image = self.generator.drawn(ws, self.layer_noise(rows["position"], step, "path"))
        direction = random.normal(rows["position"], tuple(image.shape[1:]), seed=step.seed, stream="direction") / image.shape[-1]
        (gradient,) = torch.autograd.grad((image * direction).sum(), ws, create_graph=True)
        length = gradient.square().sum(2).mean(1).sqrt()
        self.seen_paths.add(length, counts & rows["valid"])
        every = torch.zeros_like(batch["weight"])
        share = share * counts.float()
        still = 0 * image[:, 0, 0, 0]  # see `squared_gradient`
        loss = every.index_put((chosen,), self.game.path_weight * (length - self.path_mean).square() * share + still)
        return loss, {"path_length": every.index_put((chosen,), length.detach() * share)}

    def some_rows(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        """This rank's rows that stand at every `path_share`-th place of the global micro-batch, or one that does not count; which of them do
        count; and the number of rows for each of them.
        """
        rows, world, share = len(batch["position"]), distributed.world_size(), self.game.path_share
        chosen = torch.arange(-distributed.rank() * rows % share, rows, share, device=batch["position"].device)
        counts = torch.ones_like(chosen, dtype=torch.bool)
        if not len(chosen):
            chosen, counts = chosen.new_zeros(1), counts.new_zeros(1)
        return chosen, counts, world * rows / len(range(0, world * rows, share))

    def seen(self, batch: Batch, step: Step) -> Tensor:
        """The batch's images as the discriminator sees them, some mirrored."""
        real = self.real(batch)
        if not self.game.mirror:
            return real
        mirrored = random.uniform(batch["position"], seed=step.seed, stream="mirror") < 0.5
        return torch.where(mirrored[:, None, None, None], real.flip(3), real)

    def logits(self, image: Tensor, batch: Batch, step: Step, stream: str) -> Tensor:
        """Logits (B, 1) of images in [-1, 1], augmented as the stream draws."""
        draws = {"seed": step.seed, "stream": f"augmentation of {stream}"}
        if self.augment:
            image = augmented(image, batch["position"], self.augment.strength, PRESETS[self.game.augment_changes], **draws)
        elif self.game.augment == "diff":
            image = diff_augmented(image, batch["position"], DIFF_CHANGES, **draws)
        return self.discriminator(image, batch["valid"], *self.condition(batch)[1])

    def fakes(self, batch: Batch, step: Step, stream: str) -> Tensor:
        """Images in [-1, 1], one in the place of each row, noise at every layer drawn anew."""
        counts = batch["valid"] if stream == "generator" else None
        return self.generator.drawn(self.styles(batch, step, stream), self.layer_noise(batch["position"], step, stream), counts)

    def styles(self, batch: Batch, step: Step, stream: str) -> Tensor:
        """(B, num_ws, style_dim), some of them of two noises."""
        position, labels = batch["position"], self.condition(batch)[0]
        w = self.generator.mapping(self.noise(batch, step.seed, stream), *labels)
        if stream == "generator":
            self.seen_styles.add(w, batch["valid"])
        if not self.game.style_mixing:
            return self.generator.same_style(w)
        other = self.generator.mapping(self.noise(batch, step.seed, f"{stream}'s other style"), *labels)
        count = self.generator.synthesis.num_ws
        mixes = random.uniform(position, seed=step.seed, stream=f"mixing of the {stream}") < self.game.style_mixing
        crossover = 1 + random.randint(position, count - 1, seed=step.seed, stream=f"crossover of the {stream}")
        return self.generator.mixed(w, other, torch.where(mixes, crossover, count))

    def layer_noise(self, position: Tensor, step: Step, stream: str) -> list[Tensor]:
        """A plane for each layer, keyed by position."""
        numbers = random.normal(position, (self.generator.noise_numbers,), seed=step.seed, stream=f"noise of the {stream}")
        return list(self.generator.planes(numbers))

    def after_step(self, step: Step) -> None:
        """The running means of styles, of path lengths and of signals, how strongly is augmented, and how far networks have grown."""
        super().after_step(step)
        w_avg, (styles, paths) = self.generator.mapping.w_avg, taken(self.seen_styles, self.seen_paths)
        w_avg.copy_(moved(w_avg, *styles, W_DECAY))
        self.path_mean.copy_(moved(self.path_mean, *paths, PATH_DECAY))
        self.generator.settle()
        if self.augment:
            self.augment.settle(step.index)

    @action
    @torch.no_grad()
    def generate(self, *, seed: Seeds, truncation: Truncation = 1.0, layer_noise: LayerNoise = "const") -> Image:  # type: ignore[override]
        """Images (len(seed), C, side, side) in [0, 1], each of its own seed."""
        return self.shown(self.generator.same_style(self.styles_of(seed, truncation)), self.seeded_layer_noise(seed, layer_noise))

    @action
    @torch.no_grad()
    def mix(self, *, seed: Seeds, style_seed: StyleSeeds, style_layer: StyleLayer, truncation: Truncation = 1.0) -> Image:
        """Images (len(seed), C, side, side) in [0, 1] in the style of one seed, from a layer on in that of another.

        From an early layer on most of the image is the other's, from a late one on its finest detail alone.
        """
        return self.mixed(self.styles_of(seed, truncation), self.styles_of(style_seed, truncation), style_layer)

    @action(joint=True)
    @torch.no_grad()
    def interpolate(self, *, first: Seed, last: Seed, steps: FrameCount = 8, truncation: Truncation = 1.0) -> Strip:  # type: ignore[override]
        """The images of two seeds and those between, `steps` in all, on the straight way between their styles."""
        a, b = self.styles_of([first, last], truncation)
        return self.between(a, b, steps)

    @action
    def project(self, *, image: Image, steps: Steps = 200) -> Code:
        """The style (B, style_dim) whose image is near to each image (B, C, side, side) in [0, 1], found by descent in so many steps."""
        return self.projected(image, steps)

    @action
    @torch.no_grad()
    def draw(self, *, code: Code) -> Image:
        """Images (B, C, side, side) in [0, 1] of styles (B, style_dim), such as those of projected images."""
        return self.shown(self.generator.same_style(code.to(self.device)), "const")

    @action
    @torch.no_grad()
    def embed(self, *, image: Image) -> Features:
        """Features (B, F) that the discriminator sees in images (B, C, side, side) in [0, 1] before it decides."""
        return self.discriminator.features(self.real({"image": self.checked_image(image)}))

    def styles_of(self, seed: Sequence[int], truncation: float) -> Tensor:
        """Styles (len(seed), style_dim), each of its own seed."""
        return self.generator.mapping.truncated(self.generator.mapping(self.latents(seed)), truncation)

    def mixed(self, first: Tensor, second: Tensor, layer: int) -> Tensor:
        """Images of two styles (B, style_dim) each, the second from a layer on. ValueError where there is no such layer."""
        count = self.generator.synthesis.num_ws
        if not 0 <= layer <= count:
            raise ValueError(
                f"style_layer is {layer}; this generator takes styles at layers 0 to {count - 1}, and {count} leaves the first one's alone"
            )
        return self.shown(self.generator.mixed(first, second, torch.full((len(first),), layer, device=self.device)), "const")

    def between(self, first: Tensor, last: Tensor, steps: int) -> Tensor:
        """Images (steps, C, side, side) from one style to another, each (style_dim,) or (steps, style_dim)."""
        if steps < 2:
            raise ValueError(f"steps is {steps}; from one image to another there are at least 2")
        return self.shown(self.generator.same_style(first.lerp(last, torch.linspace(0, 1, steps, device=self.device)[:, None])), "const")

    def projected(self, image: Tensor, steps: int, *labels: Tensor) -> Tensor:
        """See `projection`."""
        return projected(self.generator, self.real({"image": self.checked_image(image)}), steps, *labels)

    def asked(self, seed: Sequence[int]) -> dict[str, Any]:
        """What `generate` and `mix` take of rows with such seeds."""
        return {"seed": list(seed)}

    def checked_image(self, image: Tensor) -> Tensor:
        """On the task's device. ValueError where images are of another shape than those it was trained on."""
        if tuple(image.shape[1:]) != self.shape.sides:
            raise ValueError(f"images of shape {tuple(image.shape[1:])} are given, and the networks know {self.shape.sides}; scale or convert them")
        return image.to(self.device)

    def seeded_layer_noise(self, seed: Sequence[int], layer_noise: str) -> Noise:
        """What `drawn` takes: of `random` planes that follow from each row's seed."""
        if layer_noise != "random":
            return layer_noise  # type: ignore[return-value]
        return self.generator.planes(
            SeededNoise(seed, (self.networks.latent_dim + self.generator.noise_numbers,), self.device)()[:, self.networks.latent_dim :]
        )

    def shown(self, ws: Tensor, noise: Noise) -> Tensor:
        """Images in [0, 1] of styles (B, num_ws, style_dim)."""
        return self.in_data_units(self.generator.drawn(ws, noise))

    def sizes(self, data: DataSpec) -> Sizes:
        return self.shape.port_sizes(data, code=self.networks.style_dim)
