"""Translation between two sets without pairs, A and B: what of a task does not depend on how it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from genlib.config import TaskConfig, limited
from genlib.models.base.health import Health
from genlib.models.translation.base.pictures import PictureConfig
from genlib.models.translation.base.translator import Patches, Translator, absolute, decibels, shown
from genlib.ports import Image, Sizes, choice, register
from genlib.task import Phase, action
from genlib.types import Batch, DataSpec, Metrics

DOMAINS = ("A", "B")
Domain = Annotated[str, register(choice("domain", DOMAINS))]
"""The set whose pictures a translation is to be like: B, the second one, or A."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoDomainsConfig(TaskConfig):
    """What every translator between two sets is told."""

    pictures: PictureConfig = field(default_factory=PictureConfig)
    """Sizes and augmentation."""
    width: int = limited(64, at_least=1)
    """Channels of the translators at full size; each halving doubles them."""
    halvings: int = limited(2, at_least=1)
    """Of the size, between which blocks work."""
    patches: Patches = field(default_factory=Patches)
    """The discriminators."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def check_sizes(self, data: DataSpec) -> int:
        """Pixels a side. ValueError where the networks do not fit them."""
        side, multiple = self.pictures.side(data), 2**self.halvings
        if side % multiple or side < 2 * multiple:
            raise ValueError(
                f"image_size {side} is not a multiple of {multiple} from {2 * multiple} on; use {max(2, -(-side // multiple)) * multiple}"
            )
        self.patches.check(side)
        return side

    def check_data(self, data: DataSpec) -> None:
        self.check_sizes(data)
        if not data.has_other:
            raise ValueError(
                "translation without pairs learns from two sets, and there is no domain B: name it with --data.other, as data.train names A; "
                "`prepare_data.py domains` makes both"
            )


class TwoDomains(Translator):
    """Base of the tasks, which say how a picture is translated; what does so is one player, as both directions learn together."""

    objective = ("sliced_wasserstein", "min")
    companions = replace(Translator.companions, graphs="genlib.models.translation.base.graphs:of_two_domains")
    phases: tuple[Phase, ...] = (Phase(name="discriminators", player="discriminators"), Phase(name="translators", player="translators"))

    def __init__(self, config: TwoDomainsConfig, data: DataSpec) -> None:
        config.check_sizes(data)
        super().__init__(config.pictures, config.health, data)
        self.averaged, self.multiple = ("translators",), 2**config.halvings
        self.discriminators = nn.ModuleDict({domain: config.patches.network(self.channels, affine=False) for domain in DOMAINS})

    def sizes(self, data: DataSpec) -> Sizes:
        return Sizes(channels=self.channels, side=self.side, multiple=self.multiple)

    def translated(self, x: Tensor, to: str) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] of the other domain, as ones of this."""
        raise NotImplementedError

    def round_trip(self, x: Tensor, to: str) -> tuple[Tensor, Tensor]:
        """Pictures translated to a domain, and from there back."""
        made = self.translated(x, to)
        return made, self.translated(made, "A" if to == "B" else "B")

    def evaluation_features(self, batch: Batch) -> Batch:
        """Real and made pictures of both domains, how far a round trip leads away, how much a picture changes that is of the domain already, and
        where true partners are known how far translations are from them."""
        a, b = batch["a"], batch["b"]
        (made_b, back_a), (made_a, back_b) = self.round_trip(a, "B"), self.round_trip(b, "A")
        same = (absolute(shown(self.translated(x, to)), shown(x)) for x, to in ((a, "A"), (b, "B")))
        trips = (absolute(shown(back), shown(x)) for back, x in ((back_a, a), (back_b, b)))
        values = {"cycle_mae": sum(trips) / 2, "identity_mae": sum(same) / 2}
        if "b_of_a" in batch:
            true = shown(batch["b_of_a"])
            values |= {"l1": absolute(shown(made_b), true), "psnr_db": decibels(shown(made_b), true)}
        pictures = {"a_real": shown(a), "a_made": shown(made_a), "b_real": shown(b), "b_made": shown(made_b)}
        return {**pictures, **{name: torch.as_tensor(value) for name, value in values.items()}}

    @action
    @torch.no_grad()
    def translate(self, *, image: Image, to: Domain = "B") -> Image:
        """Pictures (B, C, H, W) in [0, 1] of one domain as ones of the other, by default of A as ones of B."""
        return shown(self.translated(self.seen(image, self.multiple), to))


def scored(real: Tensor, fake: Tensor, domain: str) -> Metrics:
    """Mean score of data and fakes by a domain's discriminator, to be logged; maps (B, 1, h, w)."""
    return {f"real_score_{domain}": real.flatten(1).mean(1), f"fake_score_{domain}": fake.flatten(1).mean(1)}


def of_domains(batch: Batch) -> Mapping[str, Tensor]:
    """The batch's pictures by domain."""
    return {"A": batch["a"], "B": batch["b"]}
