"""A family in a package of its own, written into a folder as an installed one lies there: what tests of outside families stand on."""

from __future__ import annotations

from pathlib import Path

FAMILY = '''
"""Numbers of a sample as independent Gaussians."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genlib import random
from genlib.config import DataConfig, TaskConfig, TrainConfig, tunable
from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.ports import Sample, Seeds, Sizes
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class CloudConfig(TaskConfig):
    """Where the widths start."""

    width: float = tunable(1.0, low=0.1, high=10.0, log=True, above=0)
    """Standard deviation before training."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Task:
        return Cloud(self, VectorShape.of(data))


class Cloud(Task):
    """A mean and a width for each number."""

    def __init__(self, config: CloudConfig, shape: VectorShape) -> None:
        super().__init__()
        self.shape = shape
        self.net = nn.ParameterDict({"mean": torch.zeros(shape.size), "log_width": torch.full((shape.size,), config.width).log()})

    def sizes(self, data: DataSpec) -> Sizes:
        return self.shape.port_sizes(data)

    def transform(self, train: bool) -> VectorTransform:
        return VectorTransform(self.shape)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        z = (batch["x"] - self.net["mean"]) * (-self.net["log_width"]).exp()
        return (z.square() / 2 + self.net["log_width"]).sum(1), {}

    @action
    @torch.no_grad()
    def generate(self, *, seed: Seeds) -> Sample:
        """Images (B, C, H, W) in [0, 1], one of each seed."""
        z = random.normal(torch.tensor(seed), (self.shape.size,), seed=0, stream="cloud")
        return self.shape.image(self.net["mean"] + self.net["log_width"].exp() * z).clamp(0, 1)


def cloud() -> Recipe:
    """Digits as a cloud of independent numbers.

    `python jobs/train.py cloud`.
    """
    short = TrainConfig(steps=6, global_batch=16, checkpoint_every_steps=3, trackers=())
    stage = Stage(task=CloudConfig(), data=DataConfig(train="digits"), train=short)
    return Recipe(stages=(stage,), smoke=(stage,))
'''
SPACE = """
from genlib.config import Search


def space():
    return {"task.width": Search(0.5, 2.0, log=True)}
"""


def write_package(folder: Path, package: str = "skylib", *, installed: bool = True, spaces: bool = True) -> Path:
    """The package in `folder`, which is to be on the search path; `installed` has entry points, as pip leaves them."""
    root = folder / package
    root.mkdir(parents=True)
    (root / "__init__.py").write_text(f'RECIPES = {{"cloud": "{package}.clouds:cloud"}}\n')
    (root / "clouds.py").write_text(FAMILY)
    if spaces:
        (root / "tune_spaces").mkdir()
        (root / "tune_spaces" / "cloud.py").write_text(SPACE)
    if installed:
        facts = folder / f"{package}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[genlib.recipes]\ncloud = {package}.clouds:cloud\n")
    return folder
