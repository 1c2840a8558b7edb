"""UNIT (Liu et al. 2017, arXiv:1703.00848): two domains with one space of codes.

Each domain has an encoder, a generator and a discriminator. A picture of one domain and the picture that it would be in the other are to have the
same code, which is why the encoders' last layers are one and the same, and the generators' first ones too. Within its domain each pair is a
variational autoencoder, whose code has unit variance; across domains it translates: from A's code B's generator makes B. That a round trip leads
back follows from the shared code, and is learnt as a variational autoencoder's reconstruction as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genlib import random
from genlib.config import DataConfig, OptimConfig, TrainConfig, limited, tunable
from genlib.functional.adversarial import non_saturating_discriminator, non_saturating_generator
from genlib.models.translation.base.residual import blocks, ending, entry
from genlib.models.translation.base.translator import Patches, absolute, start_small
from genlib.models.translation.base.two_domains import DOMAINS, TwoDomains, TwoDomainsConfig, of_domains, scored
from genlib.ports import Image, Latent
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step


class SharedCodes(nn.Module):
    """Encoders and generators of both domains, with the layers that they share, which are one module each."""

    def __init__(self, channels: int, width: int, halvings: int, own: int, shared: int) -> None:
        super().__init__()
        self.enter = nn.ModuleDict({one: nn.Sequential(*entry(channels, width, halvings), *blocks(width, halvings, own)) for one in DOMAINS})
        self.shared_encoder, self.shared_generator = (nn.Sequential(*blocks(width, halvings, shared)) for _ in range(2))
        self.leave = nn.ModuleDict({one: nn.Sequential(*blocks(width, halvings, own), *ending(channels, width, halvings)) for one in DOMAINS})
        start_small(self, width)

    def encoder(self, domain: str) -> list[nn.Module]:
        """The layers of a domain's encoder, its own and then the shared ones: pictures (B, C, H, W) in [-1, 1] -> means (B, c, h, w)."""
        return [self.enter[domain], self.shared_encoder]

    def generator(self, domain: str) -> list[nn.Module]:
        """The layers of a domain's generator, the shared ones and then its own: codes -> pictures in [-1, 1]."""
        return [self.shared_generator, self.leave[domain]]

    def encoded(self, x: Tensor, domain: str) -> Tensor:
        """Means of the codes of a domain's pictures."""
        for layer in self.encoder(domain):
            x = layer(x)
        return x.float()

    def generated(self, code: Tensor, domain: str) -> Tensor:
        """A domain's pictures of codes."""
        for layer in self.generator(domain):
            code = layer(code)
        return code.float()


@dataclass(frozen=True, kw_only=True, slots=True)
class UNITConfig(TwoDomainsConfig):
    """Networks, and the prices of what is learnt. The defaults are the paper's (section 4)."""

    own_blocks: int = limited(3, at_least=0)
    """Residual blocks of each domain's encoder and generator alone."""
    shared_blocks: int = limited(1, at_least=1)
    """Residual blocks that both encoders share, and as many that both generators share."""
    adversarial_weight: float = limited(10.0, at_least=0)
    """Price of what a discriminator says (lambda 0)."""
    rate_weight: float = limited(0.1, at_least=0)
    """Price of the divergence of codes from the prior, nats a number (lambda 1 and 3)."""
    distortion_weight: float = tunable(100.0, low=20.0, high=300.0, log=True, at_least=0)
    """Price of the mean absolute difference of a reconstruction, in [-1, 1], within a domain and after a round trip (lambda 2 and 4)."""

    code_weight: float = limited(0.0, at_least=0)
    """Price of the mean absolute difference of the codes of a picture and of its translation, which the paper leaves to the other terms (a loss of
    Huang et al. 2018, arXiv:1804.04732, eq. 2)."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> UNIT:
        return UNIT(self, data)


class UNIT(TwoDomains):
    """The task: both autoencoders against both discriminators."""

    translators: SharedCodes

    def __init__(self, config: UNITConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        self.config = config
        self.translators = SharedCodes(self.channels, config.width, config.halvings, config.own_blocks, config.shared_blocks)

    def translated(self, x: Tensor, to: str) -> Tensor:
        return self.translators.generated(self.translators.encoded(x, "A" if to == "B" else "B"), to)

    def drawn(self, mean: Tensor, batch: Batch, step: Step, stream: str) -> Tensor:
        """Codes of unit variance around their means."""
        return mean + random.normal(batch["position"], tuple(mean.shape[1:]), seed=step.seed, stream=f"codes, {stream}").to(mean)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        real = of_domains(batch)
        return self.discriminators_loss(real, batch, step) if phase == "discriminators" else self.translators_loss(real, batch, step)

    def discriminators_loss(self, real: Mapping[str, Tensor], batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """Cross-entropy of data and of translations, of both domains, (B,)."""
        self.progress.fill_(step.progress)
        total, metrics = torch.zeros(()), {}
        for domain, other in (DOMAINS, DOMAINS[::-1]):
            with torch.no_grad():
                code = self.drawn(self.translators.encoded(real[other], other), batch, step, other)
                made = self.translators.generated(code, domain)
            true, fake = self.discriminators[domain](real[domain]), self.discriminators[domain](made)
            total = total + non_saturating_discriminator(true, fake)
            metrics |= scored(true, fake, domain)
        return total, metrics

    def translators_loss(self, real: Mapping[str, Tensor], batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """Of each domain the autoencoder's two terms, those of the round trip, and what the other's discriminator says of its translations, (B,)."""
        nets, config, total, terms = self.translators, self.config, torch.zeros(()), {}
        for domain, other in (DOMAINS, DOMAINS[::-1]):
            x = real[domain]
            mean = nets.encoded(x, domain)
            code = self.drawn(mean, batch, step, domain)
            made = nets.generated(code, other)
            mean_back = nets.encoded(made, other)
            back = nets.generated(self.drawn(mean_back, batch, step, f"{domain} and back"), domain)
            rate, distortion = unit_rate(mean) * 2 + unit_rate(mean_back), absolute(nets.generated(code, domain), x) + absolute(back, x)
            terms |= {f"distortion_{domain}": distortion / 2, f"rate_{domain}": rate / 3, f"code_{domain}": absolute(mean_back, mean)}
            total = total + config.code_weight * terms[f"code_{domain}"]
            terms[f"adversarial_{other}"] = non_saturating_generator(self.discriminators[other](made))
            total = (
                total + config.distortion_weight * distortion + config.rate_weight * rate + config.adversarial_weight * terms[f"adversarial_{other}"]
            )
        return total, terms

    def evaluation_features(self, batch: Batch) -> Batch:
        """As of every translator of two domains, and how far the codes of a picture and of its translation are apart, as a share of their size."""
        apart = []
        for domain, other in (DOMAINS, DOMAINS[::-1]):
            code = self.translators.encoded(of_domains(batch)[domain], domain)
            again = self.translators.encoded(self.translators.generated(code, other), other)
            apart.append((code - again).flatten(1).norm(dim=1) / code.flatten(1).norm(dim=1))
        return {**super().evaluation_features(batch), "code_distance": (apart[0] + apart[1]) / 2}

    @action
    @torch.no_grad()
    def encode_image(self, *, image: Image) -> Latent:
        """Codes (B, c, h, w) of pictures of A in [0, 1]: those of their translations to B are to be the same."""
        return self.translators.encoded(self.seen(image, self.multiple), "A")


def unit_rate(mean: Tensor) -> Tensor:
    """Divergence of normal codes of unit variance from the standard normal prior, nats a number: half the square of the mean. (B, ...) -> (B,)."""
    return 0.5 * mean.square().flatten(1).mean(1)


def unit() -> Recipe:
    """Shapes in warm colours to shapes in cool ones and back by one space of codes, 16 x 16 pixels.

    `python jobs/train.py unit`. The codes of a picture and of its translation come from 99 to 9.3 apart (19% of their length); without
    `code_weight` to 57. A round trip ends 0.033 from where it began (mean absolute error), 96% of the translations pass a linear classifier
    for ones of the other set, and colours of one set are not kept apart on the way back; 123 CPU-seconds.
    """
    optim = OptimConfig(name="adam", learning_rate=1e-3, beta1=0.5, schedule="cosine")
    train = TrainConfig(steps=600, global_batch=8, optim=optim, evaluate_every_steps=500)
    task = UNITConfig(width=16, halvings=1, own_blocks=1, code_weight=20.0, patches=Patches(width=32, layers=1))
    small = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(name="adam", learning_rate=1e-3, beta1=0.5))
    # a two-hundredth of each price, so that plain gradient descent too, by which tests compare strategies, stays where it learns
    tiny = UNITConfig(
        width=4, halvings=1, own_blocks=0, patches=Patches(width=8, layers=1), adversarial_weight=0.05, rate_weight=5e-4, distortion_weight=0.5
    )  # fmt: skip
    data = DataConfig(train="shapes_warm", other="shapes_cool", image_size=16)
    return Recipe(stages=(Stage(task=task, data=data, train=train),), smoke=(Stage(task=tiny, data=data, train=small),))
