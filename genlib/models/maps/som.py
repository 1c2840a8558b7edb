"""Self-organising map (Kohonen 1982, doi:10.1007/BF00337288): samples laid out on a grid so that what is alike lies near.

Each unit of the grid has a prototype. A sample's winner is the unit whose prototype is nearest, and it pulls the prototypes of its
neighbours with its own towards the sample; the circle of those neighbours is large at first and shrinks exponentially, so that the
map orders itself as a whole before it learns details. A winner is a cluster; labels that were seen make the map a classifier, the
distance to a winner tells what is unlike anything seen, and a ring laid through cities is a short tour of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from genlib.companions import Companions
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig, limited, tunable
from genlib.data.transforms.vectors import VectorShape
from genlib.functional import topology
from genlib.functional.topology import Grid, GridName, HexagonalGrid, NeighbourhoodName, RingGrid, SquareGrid, exponential
from genlib.models.maps.base.rules import BatchRule, OnlineRule, Rule, Start, started, two_nearest
from genlib.models.maps.base.trained import TrainedMap
from genlib.recipe import Recipe, Stage
from genlib.task import Task, learning_rule
from genlib.types import Batch, DataSource, DataSpec, Metrics, Step

_RING_SHARE = 2.5  # units a sample: tours of 30 and of 100 random cities grow no shorter with 4
_START_SAMPLES = 4096  # that the first prototypes are made of, where there are no more units than this


@dataclass(frozen=True, kw_only=True, slots=True)
class SOMConfig(TaskConfig):
    """A grid, its start, and how it learns."""

    image_size: int = limited(0, at_least=0)
    """Pixels a side to which images are scaled; 0 is the data's own."""
    grid: GridName = "hexagonal"
    """Where units lie: rows and columns, or a closed ring."""
    units: int = limited(0, at_least=0)
    """About how many units; the nearest rectangle is taken. 0 is auto: 5 sqrt(n) for n training samples, and 2.5 n on a ring, for a tour."""
    sides: tuple[int, ...] = ()
    """Rows and columns, or the length of a ring, in place of `units`."""
    start: Start = "samples"
    """First prototypes: samples, the plane of the two largest principal components, or small random numbers."""
    neighbourhood: NeighbourhoodName = "gaussian"
    """How the pull on neighbours falls with their distance: smoothly, or not at all up to the radius."""
    start_radius: float = tunable(0.5, low=0.15, high=1.0, above=0)
    """Radius at first, as a share of the largest distance on the grid."""
    final_radius: float = tunable(0.5, low=0.3, high=1.5, above=0)
    """Radius at the end, in steps of the grid: the smaller, the nearer prototypes are to samples, and the looser the order."""
    rule: Literal["batch", "online"] = "batch"
    """Prototypes become means of a step's samples, or follow them one by one. Both go with plain SGD and learning rate 1; less lets a
    prototype go only part of the way, which steadies the batch rule on steps of few samples."""
    rate: float = limited(0.5, above=0, at_most=1)
    """Share of the way that a sample pulls its winner under the online rule, at first."""
    final_rate: float = limited(0.02, above=0, at_most=1)
    """Share of the way under the online rule at the end."""

    fields: ClassVar[tuple[str, ...]] = ("image|array",)

    def validate(self) -> None:
        if 0 < self.units < 4:
            raise ValueError(f"task.units {self.units} is no map; give at least 4, or 0 for 5 sqrt(n)")
        wanted = 1 if self.grid == "ring" else 2
        if self.sides and (len(self.sides) != wanted or min(self.sides) < (3 if wanted == 1 else 2)):
            fitting = "one number, at least 3" if wanted == 1 else "rows and columns, each at least 2"
            raise ValueError(f"task.sides {' '.join(map(str, self.sides))} does not fit a {self.grid} grid; give {fitting}")

    def make_grid(self, samples: int) -> Grid:
        """The grid for so many training samples."""
        units = self.units or (max(3, round(_RING_SHARE * samples)) if self.grid == "ring" else topology.auto_units(samples))
        if self.grid == "ring":
            return RingGrid(*(self.sides or (units,)))
        if self.grid == "square":
            return SquareGrid(*(self.sides or topology.rectangle(units)))
        return HexagonalGrid(*(self.sides or topology.rectangle(units)[::-1]))  # rows lie closer than columns

    def make_rule(self) -> Rule:
        """The rule with its rates."""
        return BatchRule() if self.rule == "batch" else OnlineRule(self.rate, self.final_rate)

    def check_data(self, data: DataSpec) -> None:
        VectorShape.of(data, self.image_size)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> SOM:
        return SOM(self, data)


class SOM(TrainedMap):
    """The task: vectors in, a map out."""

    objective = ("distortion", "min")
    companions = Companions(
        assess="genlib.models.maps.som_pictures:assess",
        sheet="genlib.models.maps.som_pictures:sheet",
        export="genlib.models.maps.som_pictures:export",
        no_graphs="all that it is stands in prototypes.npy",
        example="genlib.models.maps.som:example",
    )

    def __init__(self, config: SOMConfig, data: DataSpec) -> None:
        super().__init__(data, VectorShape.of(data, config.image_size), config.make_grid(data.num_samples))
        self.config, self.rule, self.neighbourhood = config, config.make_rule(), topology.NEIGHBOURHOODS[config.neighbourhood]
        self.first_radius = max(config.final_radius, config.start_radius * self.grid.extent)
        self.seen: tuple[int, int, Tensor] | None = None  # the step, how many micro-batches of it there were, and what the rule knows of them

    @torch.no_grad()
    def prepare(self, source: DataSource) -> None:
        """First prototypes, of samples that the torch seed chooses."""
        count = max(self.grid.units, _START_SAMPLES)
        count, seed = min(count, source.spec.num_samples or count), int(torch.randint(2**31, ()))
        batches = source.batches("train", count, seed=seed, transform=self.transform(train=True))
        batch = next(iter(batches))
        self.prototypes.copy_(started(self.config.start, batch["x"][batch["valid"]], self.grid))

    def radius(self, progress: float) -> float:
        """Radius of the neighbourhood, in steps of the grid."""
        return exponential(self.first_radius, self.config.final_radius, progress)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        radius = self.radius(step.progress)

        def pull(winner: Tensor, units: slice) -> Tensor:
            return self.neighbourhood(self.grid_distance(winner, units), radius)

        x, counts, prototypes = batch["x"].float(), batch["valid"].float(), self.prototypes
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            units, distance = two_nearest(x, prototypes)
            gradient = self.whole_step(step, lambda known: self.rule.add(known, x, counts, units[:, 0], pull, step.progress))
            self.votes.add(units[:, 0], counts, batch.get("label"))
        values = {"loss": distance, "radius": x.new_tensor(radius)}
        return learning_rule((prototypes, gradient)), values

    def whole_step(self, step: Step, add: Callable[[Tensor], Tensor]) -> Tensor:
        """The gradient of one more micro-batch, such that the mean over a step's is what the rule says of all their samples together.

        If G(n) is that of the first n, n G(n) - (n - 1) G(n - 1) is the n-th one's: whatever their number, they add up to n G(n).
        """
        _, count, known = self.seen if self.seen and self.seen[0] == step.index else (step.index, 0, self.rule.start(self.prototypes))
        before = count * (self.prototypes - self.rule.targets(known, self.prototypes)) if count else 0.0
        known = add(known)
        self.seen = step.index, count + 1, known
        return (count + 1) * (self.prototypes - self.rule.targets(known, self.prototypes)) - before

    def after_step(self, step: Step) -> None:
        self.seen = None
        self.votes.settle(step)

    def evaluate(self, batch: Batch) -> Metrics:
        """Quantisation error (distance to the winner), topographic error (share of samples whose two nearest units are no neighbours),
        distortion (mean squared distance to the winner and to its neighbours, half and half), and accuracy where samples are labelled.
        """
        x = batch["x"].float()
        units, distance = two_nearest(x, self.prototypes)
        near = topology.neighbour_distortion(x, units[:, 0], self.prototypes, self.pairs)
        values = {"quantisation": distance, "topographic": self.topographic_error(units), "distortion": (distance.square() + near) / 2}
        if "label" in batch and self.votes.labelled and self.votes.counts.any():
            values["accuracy"] = (self.classify(image=x).argmax(1) == batch["label"]).float()
        return values


def example(task: SOM, size: int) -> Batch:
    """See `Companions.example`."""
    batch = {"x": torch.rand(size, task.shape.size)}
    return {**batch, "label": torch.zeros(size, dtype=torch.int64)} if task.data.class_names else batch


def _train(**options) -> TrainConfig:
    return TrainConfig(optim=OptimConfig(name="sgd", learning_rate=1.0), **options)


def _smoke(task: SOMConfig, data: str) -> tuple[Stage, ...]:
    return (Stage(task=task, data=DataConfig(train=data), train=_train(steps=8, global_batch=64, checkpoint_every_steps=4)),)


def som() -> Recipe:
    """A hexagonal map of handwritten digits, on which the ten classes lie in provinces of their own.

    `python jobs/train.py som`. 192 units; of held-out digits 95% are of their unit's class, and of 11% the two nearest units are no
    neighbours; 3 CPU seconds. With `--data.train fashion_mnist --train.global_batch 6000` 1,225 units, 78% and 19%; 22 CPU seconds.
    """
    stage = Stage(task=SOMConfig(), data=DataConfig(train="digits"), train=_train(steps=60, global_batch=1442))
    return Recipe(stages=(stage,), smoke=_smoke(SOMConfig(units=30), "digits"))


def som_tsp() -> Recipe:
    """A round trip through the cities of the world's time zones, by a ring that is drawn towards them.

    `python jobs/train.py som_tsp`, or with points of your own (.npy members) `--data.train`. It passes 418 cities by a way 21% shorter
    than that to the nearest city left; 4 CPU seconds.
    """
    task = SOMConfig(grid="ring", start="plane", start_radius=0.2, final_radius=0.3)
    stage = Stage(task=task, data=DataConfig(train="cities"), train=_train(steps=200, global_batch=418))
    return Recipe(stages=(stage,), smoke=_smoke(SOMConfig(grid="ring", units=32, start="plane"), "rings2d"))
