"""StyleGAN by class: both players are told the label (Karras et al. 2020, arXiv:2006.06676)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genlib.models.adversarial.base.labelled import Labelled, passed
from genlib.models.adversarial.stylegan.task import StyleGAN, StyleGANConfig
from genlib.models.base.labels import check_classes, check_labelled, class_numbers
from genlib.ports import Code, FrameCount, Image, Labels, LayerNoise, Seed, Seeds, Steps, Strip, StyleLayer, StyleSeeds, Truncation
from genlib.task import Task, action
from genlib.types import DataSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledStyleGANConfig(StyleGANConfig):
    """The networks and the game, by class."""

    fields: ClassVar[tuple[str, ...]] = ("image", "label")

    def check_data(self, data: DataSpec) -> None:
        StyleGANConfig.check_data(self, data)
        check_labelled(data, "stylegan2")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> LabelledStyleGAN:
        self.check_data(data)
        return LabelledStyleGAN(self.network, self.game, self.health, data)


class LabelledStyleGAN(Labelled, StyleGAN):  # type: ignore[override]
    """The task."""

    companions = replace(StyleGAN.companions, example=Labelled.companions.example)

    @action
    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, *, seed: Seeds, label: Labels, truncation: Truncation = 1.0, layer_noise: LayerNoise = "const"
    ) -> Image:
        """Images (len(seed), C, side, side) in [0, 1], each of its own seed and class."""
        return self.shown(self.generator.same_style(self.styles_of(seed, truncation, label)), self.seeded_layer_noise(seed, layer_noise))

    @action
    @torch.no_grad()
    def mix(  # type: ignore[override]
        self, *, seed: Seeds, style_seed: StyleSeeds, label: Labels, style_layer: StyleLayer, truncation: Truncation = 1.0
    ) -> Image:
        """Images (len(seed), C, side, side) in [0, 1] of a class in the style of one seed, from a layer on in that of another."""
        return self.mixed(self.styles_of(seed, truncation, label), self.styles_of(style_seed, truncation, label), style_layer)

    @action(joint=True)
    @torch.no_grad()
    def interpolate(  # type: ignore[override]
        self, *, first: Seed, last: Seed, label: Labels, steps: FrameCount = 8, truncation: Truncation = 1.0
    ) -> Strip:
        """The images of two seeds and those between, `steps` in all, of one class; of several the way goes from each to the next."""
        check_classes(label, self.data)
        vectors = passed(self.one_hot(torch.tensor(label, device=self.device)), steps)
        mapping = self.generator.mapping
        a, b = (mapping.truncated(mapping(self.latents([one]).expand(steps, -1), vectors), truncation) for one in (first, last))
        return self.between(a, b, steps)

    @action
    def project(self, *, image: Image, label: Labels, steps: Steps = 200) -> Code:  # type: ignore[override]
        """The style (B, style_dim) whose image is near to each image (B, C, side, side) in [0, 1], from a style of its class on."""
        return self.projected(image, steps, self.one_hot(class_numbers(label, len(image), self.data, self.device)))

    def styles_of(self, seed: Sequence[int], truncation: float, label: Sequence[int] = ()) -> Tensor:
        vectors = self.one_hot(class_numbers(label, len(seed), self.data, self.device))
        return self.generator.mapping.truncated(self.generator.mapping(self.latents(seed), vectors), truncation)

    def asked(self, seed: Sequence[int]) -> dict[str, Any]:
        return {"seed": list(seed), "label": [one % len(self.data.class_names) for one in seed]}
