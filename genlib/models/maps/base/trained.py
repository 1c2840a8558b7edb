"""What a trained map can do, however it was trained: clusters, places on the map and back, classes, what is strange, and tours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.functional import topology
from genlib.functional.topology import Grid, RingGrid
from genlib.functional.tours import along_ring
from genlib.models.maps.base.rules import two_nearest
from genlib.models.maps.base.unit_labels import UnitLabels
from genlib.ports import Depth, Numbers, Place, Probabilities, Sample, Scores, Sizes
from genlib.task import Task, action
from genlib.types import DataSpec

_TABLE = 2048  # units up to which all distances on the grid are kept: 16 MB


class TrainedMap(Task):
    """Base of the task: prototypes of units on a grid, and the classes that samples of known label gave them.

    Samples are images (B, C, H, W) in [0, 1] or vectors (B, D).
    """

    pairs: Tensor
    table: Tensor

    def __init__(self, data: DataSpec, shape: VectorShape, grid: Grid) -> None:
        super().__init__()
        self.data, self.shape, self.grid = data, shape, grid
        self.net = nn.ParameterDict({"prototypes": nn.Parameter(torch.zeros(grid.units, shape.size))})
        self.votes = UnitLabels(grid.units, len(data.class_names))
        self.register_buffer("pairs", grid.pairs(), persistent=False)
        unit = torch.arange(grid.units if grid.units <= _TABLE else 0)
        self.register_buffer("table", grid.distance(unit[:, None], unit), persistent=False)

    @property
    def prototypes(self) -> nn.Parameter:
        """(units, D)."""
        return self.net["prototypes"]  # type: ignore[return-value]

    def grid_distance(self, winner: Tensor, units: slice) -> Tensor:
        """Distances on the grid from winners (B,) to those units, (B, U)."""
        if len(self.table):
            return self.table[:, units].index_select(0, winner)
        return self.grid.distance(winner[:, None], torch.arange(self.grid.units, device=winner.device)[units])

    def topographic_error(self, units: Tensor) -> Tensor:
        """1 where winner and runner-up (B, 2) are no neighbours, else 0; its mean is the topographic error (Kiviluoto 1996)."""
        return (~topology.adjacent(self.grid, units[:, 0], units[:, 1])).float()

    def transform(self, train: bool) -> VectorTransform:
        return VectorTransform(self.shape)

    def sizes(self, data: DataSpec) -> Sizes:
        return self.shape.port_sizes(data)

    def flat(self, samples: Tensor) -> Tensor:
        """Samples as vectors (B, D) on this device: see `VectorShape.flat`."""
        return self.shape.flat(samples, self.device)

    @action
    @torch.no_grad()
    def assign(self, *, image: Sample) -> Numbers:
        """Numbers of the winners, which are the finest clusters, int64 (B,), of images (B, C, H, W) in [0, 1] or vectors (B, D)."""
        return two_nearest(self.flat(image), self.prototypes)[0][:, 0]

    @action
    def embed(self, *, image: Sample) -> Place:
        """Places on the map, x and y (B, 2), of images (B, C, H, W) in [0, 1] or vectors (B, D)."""
        return self.grid.places(self.assign(image=image))

    @action
    @torch.no_grad()
    def decode(self, *, code: Place) -> Sample:
        """Prototypes of the units nearest to places (B, 2) on the map: images (B, C, H, W) in [0, 1], or vectors (B, D)."""
        if code.dim() != 2 or code.shape[1] != 2:
            raise ValueError(f"codes of shape {tuple(code.shape)} are not (B, 2), places on the map; give such ones")
        places = self.grid.places(torch.arange(self.grid.units, device=self.device))
        found = self.prototypes[two_nearest(code.to(self.device, torch.float32), places)[0][:, 0]]
        return self.shape.image(found.clamp(0, 1)) if self.shape.is_image else found

    @action
    def reconstruct(self, *, image: Sample) -> Sample:
        """The prototypes of the winners of images (B, C, H, W) in [0, 1], or of vectors (B, D), as such."""
        return self.decode(code=self.embed(image=image))

    @action
    @torch.no_grad()
    def cluster(self, *, image: Sample, depth: Depth = 0.75) -> Numbers:
        """Clusters, int64 (B,) from the largest, 0, of images (B, C, H, W) in [0, 1] or vectors (B, D): valleys of the U-matrix.

        Valleys less deep than `depth` times the median distance between neighbours are one; the less, the more clusters.
        """
        return self.valleys(depth)[self.assign(image=image)]

    def valleys(self, depth: float = 0.75) -> Tensor:
        """The cluster of each unit, int64 (units,); see `cluster`."""
        return topology.valleys(self.prototypes, self.pairs, self.votes.counts.sum(1), depth)

    @action
    @torch.no_grad()
    def classify(self, *, image: Sample) -> Probabilities:
        """Probabilities (B, classes) of each class for images (B, C, H, W) in [0, 1] or vectors (B, D): shares of the samples that the unit won."""
        return self.votes.classes(self.prototypes)[self.assign(image=image)]

    def label(self, image: Tensor, label: Tensor) -> None:
        """Replaces the labels that the map has seen by those of these samples, int64 (B,)."""
        self.votes.replace(self.assign(image=image), label.to(self.device))

    @action
    @torch.no_grad()
    def anomaly(self, *, image: Sample) -> Scores:
        """How unlike the training samples images (B, C, H, W) in [0, 1] or vectors (B, D) are, (B,): the distance to their winner."""
        return two_nearest(self.flat(image), self.prototypes)[1]

    @action(joint=True)
    @torch.no_grad()
    def tour(self, *, image: Sample) -> Numbers:
        """The order int64 (B,) in which a ring passes images (B, C, H, W) in [0, 1] or vectors (B, D), each once."""
        if not isinstance(self.grid, RingGrid):
            raise ValueError("a tour needs a ring, but this map has rows and columns; train the recipe som_tsp, or with --task.grid ring")
        return along_ring(self.flat(image), self.assign(image=image), self.prototypes)
