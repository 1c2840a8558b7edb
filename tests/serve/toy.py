"""A task with an action over every port, of which serving has never heard: its network is told a noise level, as EDM's are."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.functional.step_callbacks import after_step
from genlib.models.diffusion.base.sampling import Sampler
from genlib.models.translation.base.two_domains import Domain
from genlib.ports import (
    Amounts,
    Code,
    Codes,
    Count,
    Depth,
    Direction,
    Features,
    FrameCount,
    Frames,
    Gallery,
    Guidance,
    GuidanceRescale,
    Height,
    Image,
    Jump,
    Labels,
    Latent,
    LayerNoise,
    Left,
    Mask,
    MaskLogits,
    Names,
    NegativeText,
    NoiseLevel,
    Numbers,
    Passes,
    Place,
    Probabilities,
    Ranking,
    Sample,
    SampleFrames,
    SampleGallery,
    SampleStrip,
    Scores,
    Seed,
    Seeds,
    Sizes,
    SourceTexts,
    Steps,
    Strength,
    Strip,
    StyleLayer,
    StyleSeeds,
    Templates,
    Text,
    Texts,
    Top,
    Truncation,
    Values,
    Vector,
    VectorFrames,
    VectorGallery,
    VectorStrip,
    Width,
)  # fmt: skip
from genlib.task import Task, action
from genlib.types import DataSpec
from serve.backend import ModelCard
from serve.models.runner import Runner

SIDE, CODE, ENTRIES = 8, 4, 16


class Net(nn.Module):
    """x (B, 3, H, W) at noise levels (B,) -> something of x's shape; counts how it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.rows: list[int] = []
        self.gate: threading.Event | None = None

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.rows.append(len(x))
        if self.gate is not None:
            self.gate.wait(30)
        return torch.tanh(self.weight * x + sigma[:, None, None, None])


class Toy(Task):
    """The task."""

    phases = ()

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def sizes(self, data: DataSpec) -> Sizes:
        return Sizes(channels=3, side=SIDE, multiple=2, code=CODE, code_grid=2, codebook=ENTRIES, classes=("cat", "dog"), max_steps=500)

    def step_calls(self) -> Iterable[tuple[nn.Module, str]]:
        return ((self.net, "forward"),)

    def preview(self, x0: Tensor) -> Tensor:
        return x0.sigmoid()

    def pooled(self, image: Tensor) -> Tensor:
        """(B, CODE) of images (B, C, H, W)."""
        return F.adaptive_avg_pool2d(image, 2).mean(1).flatten(1)

    def painted(self, code: Tensor) -> Tensor:
        """Images of codes (B, CODE)."""
        return F.interpolate(code.view(-1, 1, 2, 2).expand(-1, 3, 2, 2), (SIDE, SIDE)).clamp(0, 1)

    @action
    def paint(self, *, words: Texts, chosen: Seeds, rounds: Steps = 6, kind: Sampler = "ddim", w: Width = 0, h: Height = 0) -> Image:
        """Paints words, a seed each, asking the network at each noise level.

        It is the words' lengths that it paints.
        """
        shape = (3, h or SIDE, w or SIDE)
        x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in chosen])
        x = x + torch.tensor([float(len(text)) for text in words])[:, None, None, None]
        for step in range(rounds):
            x0 = self.net(x, torch.full((len(x),), 1.0 - step / rounds))
            x = x + (x0 - x) / (rounds - step)
            after_step(step, rounds, x, x0)
        return x.sigmoid()

    @action
    def rework(
        self, *, given: Image, was: SourceTexts, wanted: Texts, group: Labels, hole: Mask, avoid: NegativeText = "", push: Guidance = 1.0,
        back: GuidanceRescale = 0.0, far: Strength = 0.5, hop: Jump = 1, again: Passes = 1, before: Left = 0.5, above: Top = 0.5,
        loud: NoiseLevel = 0.1, deep: Depth = 1.0, note: Text = "", frames: FrameCount = 2, to: Domain = "B",
        second: StyleSeeds, from_layer: StyleLayer = 1, drawn_in: Truncation = 1.0, grain: LayerNoise = "const",
    ) -> Frames:  # fmt: skip
        """Several versions of each image."""
        levels = torch.linspace(0, far, frames)[None, :, None, None, None]
        return (given[:, None] * (1 - levels * hole[:, None])).clamp(0, 1)

    @action
    def segment(self, *, image: Image) -> MaskLogits:
        """Log-odds of three masks."""
        return torch.stack([image.mean(1) * scale - 1 for scale in (1, 2, 3)], 1)

    @action
    def bright(self, *, image: Image) -> Mask:
        """Where an image is bright."""
        return (image.mean(1, keepdim=True) > 0.5).float()

    @action
    def squeeze(self, *, image: Image) -> Latent:
        """Latents."""
        return F.avg_pool2d(image, 4) * 3 - 2

    @action
    def unsqueeze(self, *, latent: Latent) -> Image:
        """Images of latents."""
        return F.interpolate((latent[:, :1] / 3 + 2 / 3).expand(-1, 3, -1, -1), (SIDE, SIDE)).clamp(0, 1)

    @action
    def spell(self, *, image: Image) -> Codes:
        """Entries of the codebook."""
        return (F.adaptive_avg_pool2d(image, 2).mean(1) * (ENTRIES - 1)).round().long()

    @action
    def read(self, *, letters: Codes) -> Image:
        """Images of entries of the codebook."""
        return self.painted(letters.float().flatten(1) / ENTRIES)

    @action
    def press(self, *, image: Sample) -> Code:
        """Codes."""
        return self.pooled(image)

    @action
    def locate(self, *, image: Sample) -> Place:
        """Places on a map."""
        return self.pooled(image)[:, :2]

    @action
    def lookup(self, *, at: Place) -> Sample:
        """What lies at places."""
        return self.painted(at.repeat(1, 2))

    @action
    def unpress(self, *, pressed: Code) -> Sample:
        """Images of codes."""
        return self.painted(pressed)

    @action
    def blend(self, *, one: Sample, other: Sample, frames: FrameCount = 3) -> SampleFrames:
        """From one image to another."""
        share = torch.linspace(0, 1, frames)[None, :, None, None, None]
        return one[:, None] * (1 - share) + other[:, None] * share

    @action(joint=True)
    def travel(self, *, start: Seed, end: Seed, frames: FrameCount = 4) -> SampleStrip:
        """From one seed to another."""
        a, b = (torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(one)) for one in (start, end))
        return torch.stack([a + (b - a) * number / max(1, frames - 1) for number in range(frames)])

    @action(joint=True)
    def film(self, *, start: Seed, frames: FrameCount = 4) -> Strip:
        """Images one after the other."""
        return self.travel(start=start, end=start + 1, frames=frames)

    @action
    def nearest(self, *, image: Image, shelf: Gallery, many: Count = 1) -> Ranking:
        """Which images of a shelf are nearest."""
        return torch.cdist(self.pooled(image), self.pooled(shelf)).argsort(1)[:, :many]

    @action
    def closest(self, *, image: Sample, shelf: SampleGallery, many: Count = 1) -> Ranking:
        """The same of samples."""
        return self.nearest(image=image, shelf=shelf, many=many)

    @action
    def judge(self, *, image: Image, among: Names, said: Templates = ()) -> Probabilities:
        """How well names fit, by their lengths."""
        return (self.pooled(image)[:, :1] * torch.tensor([[float(len(name)) for name in among]])).softmax(1)

    @action
    def see(self, *, image: Image) -> Features:
        """Features."""
        return self.pooled(image) * 2

    @action
    def sort(self, *, image: Image) -> Numbers:
        """A number of each image."""
        return (image.mean((1, 2, 3)) * 5).long()

    @action
    def odd(self, *, image: Image) -> Scores:
        """How strange an image is."""
        return image.var((1, 2, 3))

    @action(joint=True)
    def way(self, *, image: Sample, value: Values) -> Direction:
        """The direction of a value."""
        return (self.pooled(image) * torch.tensor(value)[:, None]).mean(0)

    @action
    def shift(self, *, image: Sample, toward: Direction, by: Amounts) -> SampleFrames:
        """Images moved by amounts of a direction."""
        moved = self.pooled(image)[:, None] + torch.tensor(by)[None, :, None] * toward
        return self.painted(moved.flatten(0, 1)).unflatten(0, (len(image), len(by)))

    @action
    def twist(self, *, points: Vector) -> VectorFrames:
        """Points, turned twice."""
        return torch.stack([points, points.flip(1)], 1)

    @action(joint=True)
    def walk(self, *, start: Seed, steps: FrameCount = 3) -> VectorStrip:
        """Points on a line."""
        return torch.arange(steps).float()[:, None] + torch.tensor([[float(start), 0.0]])

    @action
    def beside(self, *, points: Vector, others: VectorGallery) -> Ranking:
        """The nearest of other points."""
        return torch.cdist(points, others).argsort(1)[:, :1]


def toy_card(task: Task) -> ModelCard:
    """Its card, as of a checkpoint that was loaded."""
    sizes = task.sizes(DataSpec())
    actions = {one.name: one.resolved(sizes) for one in task.actions()}
    return ModelCard(name="toy", recipe="toy", step=1, sha256="0" * 64, actions=actions, sizes=sizes, max_batch=8, created=0)


def toy_runner(task: Task | None = None) -> Runner:
    """A runner of it."""
    task = task or Toy()
    return Runner(task.eval().requires_grad_(False), toy_card(task))
