"""Maps trained in memory by the engine's own strategy: what the tests of maps share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from genlib.config import OptimConfig, TrainConfig
from genlib.engine.strategies import strategy_of
from genlib.models.maps.som import SOM, SOMConfig
from genlib.types import Batch, DataSpec, Step, Transform

EXACT = TrainConfig(optim=OptimConfig(name="sgd", learning_rate=1.0))


def batch_of(x: Tensor, label: Tensor | None = None, start: int = 0) -> Batch:
    valid = torch.ones(len(x), dtype=torch.bool)
    batch = {"x": x, "position": torch.arange(start, start + len(x)), "valid": valid, "weight": valid.float()}
    return batch if label is None else {**batch, "label": label}


class VectorSource:
    """Vectors in memory, shuffled by the seed in every epoch; labels with them where they are given."""

    def __init__(self, x: Tensor, label: Tensor | None = None) -> None:
        self.x, self.labels = x, label
        names = tuple(map(str, range(int(label.max()) + 1))) if label is not None else ()
        self.spec = DataSpec(vector_size=x.shape[1], num_samples=len(x), class_names=names, digest="vectors")

    def batches(
        self, split: str, size: int, *, rank: int = 0, world: int = 1, seed: int = 0, start: int = 0, transform: Transform | None = None
    ) -> Iterator[Batch]:
        n, per_rank = len(self.x), -(-size // world)
        while True:
            position = torch.arange(start + rank * per_rank, start + (rank + 1) * per_rank)
            order = torch.stack(
                [torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch)) for epoch in range(int(position[-1]) // n + 1)]
            )
            rows = order[position // n, position % n]
            yield {**batch_of(self.x[rows], self.labels[rows] if self.labels is not None else None), "position": position}
            start += size


def trained(
    config: SOMConfig, x: Tensor, label: Tensor | None = None, *, steps: int = 30, batch: int = 0, seed: int = 0, train: TrainConfig = EXACT
) -> SOM:
    """The map after so many steps of `batch` samples each, or of all of them."""
    torch.manual_seed(seed)
    source = VectorSource(x, label)
    task = config.build(source.spec, {})
    task.prepare(source)
    strategy = strategy_of("single", torch.device("cpu"))
    strategy.setup(task, replace(train, seed=seed))
    batches = source.batches("train", batch or len(x), seed=seed)
    for index in range(steps):
        step = Step(index, steps, seed)
        strategy.run_phase(task.phases[0], [next(batches)], step)
        strategy.after_step(step)
    return task.eval()


def errors(task: SOM, x: Tensor) -> dict[str, float]:
    """Means of `SOM.evaluate`."""
    with torch.no_grad():
        return {name: value.mean().item() for name, value in task.evaluate(batch_of(x)).items()}


def digits() -> tuple[Tensor, Tensor]:
    """The digits as vectors in [0, 1], and their classes."""
    from sklearn.datasets import load_digits

    x, label = load_digits(return_X_y=True)
    return torch.as_tensor(x / 16).float(), torch.as_tensor(label)


def factors(count: int, seed: int) -> Tensor:
    """Samples of ten numbers that three hidden factors determine, up to noise."""
    draw = torch.Generator().manual_seed(seed)
    hidden, mixing = torch.rand(count, 3, generator=draw), torch.randn(3, 10, generator=draw)
    return hidden @ mixing + 0.01 * torch.randn(count, 10, generator=draw)


def blobs(clusters: int, dims: int, count: int, seed: int, apart: float) -> tuple[Tensor, Tensor]:
    """Unit Gaussians whose centres are that far from each other at least, and the number of each sample's."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        centers = torch.rand(clusters, dims, generator=draw) * 20
        if torch.pdist(centers).min() > apart:
            break
    label = torch.arange(count) % clusters
    return centers[label] + torch.randn(count, dims, generator=draw), label
