"""GAN on texts (Reed et al. 2016, arXiv:1605.05396): pictures of what a caption says, from a discriminator that knows when a caption is wrong.

A frozen text encoder makes a vector of each caption, and both players are told it. The discriminator sees three kinds of pairs: data with its
caption, which is right; fakes with the captions that they were made for; and data with the caption of another sample, which is as wrong as a fake.
Without the third a generator need only make pictures that look like data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.companions import Companions
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig
from genlib.data.transforms.plain import PlainTransform
from genlib.distributed import all_gather, rank
from genlib.functional.adversarial import targeted_discriminator
from genlib.models.adversarial.base import players
from genlib.models.adversarial.base.labelled import passed
from genlib.models.adversarial.base.players import Condition
from genlib.models.adversarial.dcgan import ConvGAN, Convolutional
from genlib.models.adversarial.gan import Game
from genlib.models.base.health import Health
from genlib.models.representation.base.clip_towers import ResidualNetwork, TextTransformer
from genlib.models.representation.clip import CLIPConfig, clip_tiny
from genlib.models.representation.text_encoder import FrozenTextTower, text_tower
from genlib.nn.tokenizer import FixedLengthTokenizer
from genlib.plurals import counted
from genlib.ports import FrameCount, Image, Seed, Seeds, Strip, Texts
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Samples, Step

SAME = 1e-3
"""Vectors of texts that differ by no more in any number are of one text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextGANConfig(TaskConfig):
    """The game by caption."""

    network: Convolutional = field(default_factory=Convolutional)
    """Both players."""
    game: Game = field(default_factory=Game)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image", "text")
    roles: ClassVar[tuple[str, ...]] = ("text",)

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)
        if not data.has_captions:
            way_out = data.caption_hint or "; take a set with captions such as shapes, or the recipe dcgan"
            raise ValueError(f"this recipe makes pictures of captions, but the samples have none (.txt members){way_out}")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> TextGAN:
        self.check_data(data)
        self.check_roles(upstream)
        if not text_tower(upstream["text"]).pooled_width:
            raise ValueError("the text stage gives no vector of a whole text; name a CLIP, or a text encoder with an embed_dim above 0")
        return TextGAN(self.network, self.game, self.health, data, upstream)


class CaptionedTransform(PlainTransform):
    """Decoded samples to `image`, `label` where there are labels, and `tokens` (B, N) of their captions."""

    fields = ("image", "text", "label", "json")

    def __init__(self, image_size: int, tokenizer: FixedLengthTokenizer) -> None:
        super().__init__(image_size)
        self.tokenizer = tokenizer

    def __call__(self, samples: Samples) -> Batch:
        return {**super().__call__(samples), "tokens": self.tokenizer(samples.fields["text"])}


class TextGAN(ConvGAN):
    """The task. Batches hold `text` (B, D), the vectors of captions."""

    companions = Companions(
        assess="genlib.models.adversarial.text_gan_assess:assess",
        sheet="genlib.models.adversarial.text_gan_assess:sheet",
        no_graphs="it draws of texts, which the text encoder of another run reads; export that run for its part",
        example="genlib.models.adversarial.text_gan:example",
    )
    networks: Convolutional

    @property
    def tower(self) -> FrozenTextTower:
        """The frozen text encoder."""
        return text_tower(self.upstream["text"])

    def asked_upstream(self) -> Iterable[nn.Module]:
        return [self.tower.model]

    @property
    def condition_sizes(self) -> tuple[int, int]:
        return self.tower.pooled_width, self.tower.pooled_width

    def condition(self, batch: Batch) -> tuple[Condition, Condition]:
        return (batch["text"],), (batch["text"],)

    def transform(self, train: bool) -> CaptionedTransform:
        return CaptionedTransform(self.shape.image_size, self.tokenizer)

    @property
    def tokenizer(self) -> FixedLengthTokenizer:
        """Of the text encoder."""
        return self.tower.tokenizer.fixed_length(self.tower.pad_token)

    def encode(self, batch: Batch) -> Batch:
        return {**{name: batch[name] for name in ("image", "label") if name in batch}, "text": self.text(batch["tokens"])}

    def text(self, tokens: Tensor) -> Tensor:
        """The vectors (B, D) of texts (B, N), of unit mean square."""
        pooled = self.tower.states(tokens)[2]
        assert pooled is not None, "refused before"
        return F.normalize(pooled.float(), dim=1) * pooled.shape[1] ** 0.5

    def mismatched(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Beside each sample the vector (B, D) of the caption of the next one of the global batch, and whether that counts (B,): not if it is the
        same caption. Samples that are not valid are passed over.
        """
        valid, every = all_gather(batch["valid"]), all_gather(batch["text"])
        in_order = (~valid).int().argsort(stable=True)  # those that count first
        place = (valid.long().cumsum(0)) % valid.sum().clamp(min=1)  # of the next one among them
        following = torch.where(valid, in_order[place], torch.arange(len(valid), device=valid.device))
        count = len(batch["text"])
        other = every[following[rank() * count : (rank() + 1) * count]]
        return other, (other - batch["text"]).abs().amax(1) > SAME

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        if phase == "generator":
            return super().loss(phase, batch, step)
        images, _, real, fake = self.discriminator_logits(batch, step)
        other, counts = self.mismatched(batch)
        wrong = self.discriminator(images, batch["valid"], other)
        on_real, on_fake = self.targets(batch, step.seed)
        found_out = targeted_discriminator(fake, on_fake) + counts * targeted_discriminator(wrong, torch.zeros_like(on_fake))
        right = {"real": real > 0, "fake": fake <= 0, "mismatched": wrong <= 0}
        loss = targeted_discriminator(real, on_real) + found_out / 2  # algorithm 1
        return loss, {f"{kind}_accuracy": one[:, 0].float() for kind, one in right.items()}

    def evaluation_features(self, batch: Batch) -> Batch:
        wrong = self.discriminator(self.real(batch), batch["valid"], self.mismatched(batch)[0])
        return {**super().evaluation_features(batch), "mismatched_logit": wrong[:, 0]}

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """As of all games; and of how many held-out samples the discriminator finds out that a caption is another's."""
        return {**super().joint_evaluation(batch), "mismatched_accuracy": (batch["mismatched_logit"] < 0).float()}

    def of(self, prompt: Sequence[str]) -> Tensor:
        """The vectors (B, D) of texts."""
        return self.text(self.tokenizer(prompt).to(self.device))

    @action
    @torch.no_grad()
    def generate(self, *, seed: Seeds, prompt: Texts) -> Image:  # type: ignore[override]
        """Pictures (len(seed), C, H, W) in [0, 1], each of its own seed and text."""
        if len(prompt) != len(seed):
            raise ValueError(f"prompt has {counted(len(prompt), 'entry', 'entries')} for {counted(len(seed), 'seed')}; give one prompt a picture")
        return self.generated(self.latents(seed), self.of(prompt))

    @action(joint=True)
    @torch.no_grad()
    def interpolate(self, *, first: Seed, last: Seed, prompt: Texts, steps: FrameCount = 8) -> Strip:  # type: ignore[override]
        """The pictures of two seeds and those between, `steps` in all, of one text; of several the way goes from each to the next."""
        return self.generated(self.way(first, last, steps), passed(self.of(prompt), steps))


def example(task: TextGAN, size: int) -> Batch:
    """See `Companions.example`."""
    return {**players.example(task, size), "text": torch.randn(size, task.tower.pooled_width)}


def text_gan() -> Recipe:
    """Coloured shapes of 16 x 16 pixels after a caption such as "a large red star in the middle": a CLIP for the captions, then both players.

    `python jobs/train.py text_gan`. The discriminator finds out 99% of the wrong captions of held-out samples. Samples have the colour, size and
    place asked for (140 of 140 large squares the colour); which kind of shape they are a person cannot tell. Sliced Wasserstein distance of patches
    0.033, coverage 0.79; 28 and 148 CPU-seconds beside other work.
    """
    towers = CLIPConfig(
        image=ResidualNetwork(image_size=32, width=8, heads=2),
        text=TextTransformer(context_length=16, vocab_size=600, width=64, layers=1, heads=2),
        embed_dim=32, mean=(0.1,), std=(0.25,),
    )  # fmt: skip
    optim = OptimConfig(learning_rate=3e-3, beta2=0.98, schedule="cosine", warmup_steps=20, clip_norm=1.0)
    data = DataConfig(train="shapes", image_size=16)
    text = Stage(
        name="text", task=towers, data=DataConfig(train="shapes", image_size=32), train=TrainConfig(steps=250, global_batch=256, optim=optim)
    )
    fast, slow = (OptimConfig(name="adam", learning_rate=rate, beta1=0.5, schedule="cosine") for rate in (1e-3, 4e-4))
    train = TrainConfig(steps=1500, global_batch=64, optim=fast, players={"discriminator": slow}, ema_halflife_samples=4000, evaluate_every_steps=500)
    task = TextGANConfig(network=Convolutional(latent_dim=32, width=32), game=Game(label_smoothing=0.1))
    (tiny,) = clip_tiny().smoke
    same = OptimConfig(name="adam", learning_rate=5e-4, beta1=0.5)
    short = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=same, players={"discriminator": same})
    small, needs = TextGANConfig(network=Convolutional(latent_dim=8, width=8)), {"text": "text"}
    return Recipe(
        stages=(text, Stage(name="pictures", task=task, data=data, train=train, needs=needs)),
        smoke=(replace(tiny, name="text"), Stage(name="pictures", task=small, data=data, train=short, needs=needs)),
    )
