"""What two players have in common that are told of labels: samples of a class that one names."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.models.adversarial.base import players
from genlib.models.adversarial.base.players import Condition, TwoPlayers
from genlib.models.base.health import JUDGED
from genlib.models.base.labels import check_classes, class_numbers
from genlib.ports import FrameCount, Labels, Sample, SampleStrip, Seed, Seeds
from genlib.task import action
from genlib.types import Batch, Metrics


class Labelled(TwoPlayers):
    """Stands before another `TwoPlayers` among a task's bases: `class ConditionalGAN(Labelled, DenseGAN)`. Both players are told labels.

    A fake is made in the place of each sample and has its label, so labels are as frequent as in the data.
    """

    companions = replace(TwoPlayers.companions, example="genlib.models.adversarial.base.labelled:example")

    @property
    def condition_sizes(self) -> tuple[int, int]:
        return len(self.data.class_names), len(self.data.class_names)

    def condition(self, batch: Batch) -> tuple[Condition, Condition]:
        vectors = self.one_hot(batch["label"])
        return (vectors,), (vectors,)

    def one_hot(self, label: Tensor) -> Tensor:
        """(B,) int64 -> (B, classes) float32."""
        return F.one_hot(label, len(self.data.class_names)).float()

    def variety(self, real: Tensor, fake: Tensor, label: Tensor | None) -> Metrics:
        """That of all; and the share of generated samples whose nearest held-out one is of the class asked for."""
        found = super().variety(real, fake, label)
        if label is None:
            return found
        real, fake, label = (one[:JUDGED] for one in (real, fake, label))
        return {**found, "label_accuracy": (nearest_label(real, label, fake) == label).float().mean()}

    @action
    @torch.no_grad()
    def generate(self, *, seed: Seeds, label: Labels) -> Sample:  # type: ignore[override]
        """Images (len(seed), C, H, W) in [0, 1], or vectors (len(seed), D), each of its own seed and class."""
        return self.generated(self.latents(seed), self.one_hot(class_numbers(label, len(seed), self.data, self.device)))

    @action(joint=True)
    @torch.no_grad()
    def interpolate(self, *, first: Seed, last: Seed, label: Labels, steps: FrameCount = 8) -> SampleStrip:  # type: ignore[override]
        """The samples of two seeds and those between, `steps` in all, of one class; of several the way goes from each to the next."""
        check_classes(label, self.data)
        return self.generated(self.way(first, last, steps), passed(self.one_hot(torch.tensor(label, device=self.device)), steps))


def passed(vectors: Tensor, steps: int) -> Tensor:
    """Vectors (K, D) that a way of so many steps begins, goes through and ends at, evenly: (steps, D)."""
    return F.interpolate(vectors.T[None], steps, mode="linear", align_corners=True)[0].T


def nearest_label(real: Tensor, label: Tensor, fake: Tensor) -> Tensor:
    """The label of the nearest real sample. real (N, D), label (N,), fake (M, D) -> (M,)."""
    return label[torch.cdist(fake.float(), real.float()).argmin(1)]


def example(task: Labelled, size: int) -> Batch:
    """See `Companions.example`."""
    return {**players.example(task, size), "label": torch.arange(size) % len(task.data.class_names)}
