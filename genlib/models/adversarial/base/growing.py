"""Networks that grow (Karras et al. 2018, arXiv:1710.10196, section 2): both players start at few pixels, and one resolution after another fades in.

Images between the players have their full size all the time, as in the published code: a generator that has not grown so far repeats its pixels,
and a discriminator takes means of them. So losses, penalties, scores and actions know nothing of growth. How far it has come follows the samples
that were seen, a number that checkpoints hold: a resumed run goes on where it was, also while a resolution fades in. Layers that are not there yet
have no gradient and stay as they are; the published code besides forgets the optimizers' state where a resolution begins and where it is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.config import Config, limited
from genlib.models.adversarial.base.players import TwoPlayers
from genlib.models.adversarial.base.resolutions import sides
from genlib.nn.step_sum import StepSum, taken
from genlib.types import Batch, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Growing(Config):
    """When networks grow."""

    first_size: int = limited(4, at_least=0)
    """Pixels a side at which training starts, a power of two; 0 is the full size, without growth."""
    stable_samples: int = limited(800_000, at_least=0)
    """Samples on which a resolution is trained before the next one fades in."""
    fade_samples: int = limited(800_000, at_least=0)
    """Samples in which a resolution fades in."""


class Growth(nn.Module):
    """How far a pair of networks has grown; both hold the same one.

    ValueError where image_size is no power of two of at least 8, or first_size is none of the resolutions up to it.
    """

    samples: Tensor
    """(1,) int64: seen in training."""

    def __init__(self, growing: Growing, image_size: int) -> None:
        super().__init__()
        known, first = sides(image_size), growing.first_size or image_size
        if first not in known:
            names = ", ".join(map(str, known))
            raise ValueError(f"growing.first_size {first} is no size on the way to images of {image_size} pixels; use one of {names}, or 0")
        self.growing, self.sides = growing, known[known.index(first) :]
        self.register_buffer("samples", torch.tensor([0]))
        self.fresh = StepSum()

    @property
    def place(self) -> tuple[int, float]:
        """Pixels a side of the newest resolution, and its share in what is drawn and seen, above 0: 1 where nothing fades in."""
        stable, fade, last = self.growing.stable_samples, self.growing.fade_samples, len(self.sides) - 1
        if stable + fade == 0:
            return self.sides[last], 1.0
        stage, since = divmod(int(self.samples), stable + fade)
        fades = since > stable
        if stage + fades > last:
            return self.sides[last], 1.0
        return self.sides[stage + fades], (since - stable) / fade if fades else 1.0

    def end(self) -> None:
        """Lets nothing be left to grow."""
        total = (self.growing.stable_samples + self.growing.fade_samples) * (len(self.sides) - 1)
        self.samples = torch.tensor([total], device=self.samples.device)

    def observe(self, valid: Tensor) -> None:
        """Notes the samples of a micro-batch that count, of which valid (B,) is true."""
        self.fresh.add(valid, valid)

    @torch.no_grad()
    def settle(self) -> None:
        """After a step, on all ranks: what they saw becomes one."""
        ((_, count),) = taken(self.fresh)
        self.samples += count.round().long()

    def whole(self, image: Tensor) -> Tensor:
        """An image (B, C, side, side) of any resolution in the full size, its pixels repeated."""
        factor = self.sides[-1] // image.shape[-1]
        return image if factor == 1 else F.interpolate(image, scale_factor=factor, mode="nearest")

    def reduced(self, image: Tensor, side: int) -> Tensor:
        """An image (B, C, H, H) at `side` pixels a side, each a mean."""
        factor = image.shape[-1] // side
        return image if factor == 1 else F.avg_pool2d(image, factor)

    def shown(self, image: Tensor) -> Tensor:
        """Data (B, C, H, H) with the detail that is drawn by now, in the full size."""
        side, share = self.place
        image = self.reduced(image, side)
        if share < 1:
            image = faded(doubled(self.reduced(image, side // 2)), image, share)
        return self.whole(image)


def doubled(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W), each pixel repeated."""
    return F.interpolate(image, scale_factor=2, mode="nearest")


def faded(old: Tensor, new: Tensor, share: float) -> Tensor:
    """What lies between the old and the new, all of the old at a share of 0."""
    return old.to(new.dtype).lerp(new, share)


class GrowingPlayers(TwoPlayers):
    """Base of the tasks whose networks may grow; their generator says how far it has in `growth`, None where it never does."""

    def both(self) -> tuple[nn.Module, nn.Module]:
        generator, discriminator = super().both()
        if generator.growth is not None:
            discriminator.growth = generator.growth  # one, which a generator from elsewhere brings along
        return generator, discriminator

    @property
    def growth(self) -> Growth | None:
        """See the class."""
        return self.generator.growth  # type: ignore[return-value]

    def real(self, batch: Batch) -> Tensor:
        """The batch's samples as networks see them, with the detail that is drawn by now."""
        return self.growth.shown(super().real(batch)) if self.growth else super().real(batch)

    def begin(self, batch: Batch, step: Step) -> None:
        super().begin(batch, step)
        if self.growth:
            self.growth.observe(batch["valid"])

    def after_step(self, step: Step) -> None:
        if self.growth:
            self.growth.settle()

    def growth_values(self) -> Metrics:
        """How far the networks have grown, to log: `resolution`, in pixels a side; nothing where they never grow."""
        if not self.growth:
            return {}
        side, share = self.growth.place
        return {"resolution": torch.tensor(side * (1 + share) / 2, device=self.device)}

    @property
    def grows(self) -> bool:
        return self.growth is not None and self.growth.place != (self.growth.sides[-1], 1.0)

    def grow_up(self) -> None:
        if self.growth:
            self.growth.end()
