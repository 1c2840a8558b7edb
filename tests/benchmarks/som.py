"""A self-organising map against minisom's: CPU time for equally many samples, and both errors of both maps, by minisom's own measures; one thread.

minisom learns from one sample after the other (its `train`, in random order) on the same square grid with the same Gaussian
neighbourhood, at radius 2: of 1, 1.5, 2, 3 and 4 the one that has both of its errors low. Its own batch rule is there too. Ours is the
task under the engine's strategy, two steps an epoch. Both start from the plane of the two largest principal components.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.som
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genlib.config import OptimConfig, TrainConfig
from genlib.engine.strategies import strategy_of
from genlib.models.maps.base.rules import started
from genlib.models.maps.som import SOM, SOMConfig
from genlib.types import DataSpec, Step
from tests.benchmarks.measure import ratios, report

EPOCHS, STEPS, RATE, RADIUS = 20, 2, 0.5, 2.0


def digits() -> Tensor:
    """All digits three times, with a little noise."""
    from sklearn.datasets import load_digits

    x = torch.as_tensor(load_digits().data / 16).float().repeat(3, 1)
    return x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def factors(samples: int, size: int) -> Tensor:
    """Three hidden factors, seen through so many numbers."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(samples, 3, generator=draw) @ torch.randn(3, size, generator=draw) + 0.02 * torch.randn(samples, size, generator=draw)


def ours(x: Tensor, side: int) -> SOM:
    """A map after as many epochs."""
    config = SOMConfig(grid="square", sides=(side, side), start_radius=0.15, final_radius=0.635)
    task = config.build(DataSpec(vector_size=x.shape[1], num_samples=len(x)), {})
    with torch.no_grad():
        task.prototypes.copy_(started("plane", x, task.grid))
    strategy = strategy_of("single", torch.device("cpu"))
    strategy.setup(task, TrainConfig(optim=OptimConfig(name="sgd", learning_rate=1.0)))
    for index in range(EPOCHS * STEPS):
        rows = torch.arange(index % STEPS, len(x), STEPS)
        valid = torch.ones(len(rows), dtype=torch.bool)
        batch = {"x": x[rows], "position": rows, "valid": valid, "weight": valid.float()}
        strategy.run_phase(task.phases[0], [batch], Step(index, EPOCHS * STEPS))
        strategy.after_step(Step(index, EPOCHS * STEPS))
    return task


def theirs(x: np.ndarray, side: int, offline: bool = False) -> Any:
    """minisom's map after as many epochs."""
    from minisom import MiniSom

    som = MiniSom(side, side, x.shape[1], sigma=RADIUS, learning_rate=RATE, random_seed=0)
    som.pca_weights_init(x)
    if offline:
        som.train_batch_offline(x, EPOCHS)
    else:
        som.train(x, EPOCHS * len(x), random_order=True)
    return som


def errors(som: Any, x: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Quantisation and topographic error by minisom, of its map or of other prototypes on the same grid."""
    if weights is not None:
        som._weights = weights.reshape(som._weights.shape).astype(np.float64)
    return float(som.quantization_error(x)), float(som.topographic_error(x))


def compare(name: str, x: Tensor, side: int, rounds: int) -> bool:
    """Prints a row; whether both of our errors are no worse, to a hundredth."""
    values = x.double().numpy()
    peer = theirs(values, side)
    other = errors(peer, values)
    mine = errors(peer, values, ours(x, side).prototypes.detach().numpy())
    values_by_name = zip(("our_quantisation", "our_topographic", "their_quantisation", "their_topographic"), (*mine, *other), strict=True)
    facts = {key: round(value, 4) for key, value in values_by_name}
    report(f"SOM {name}: time over minisom", ratios(partial(ours, x, side), partial(theirs, values, side), rounds), must=1 / 20, **facts)
    return all(our <= 1.01 * their for our, their in zip(mine, other, strict=True))


def main() -> None:
    torch.set_num_threads(1)
    x, many = digits(), factors(5000, 16)
    good = compare("digits 5,391 x 64, 15 x 15", x, 15, 3)
    good &= compare("factors 5,000 x 16, 20 x 20", many, 20, 3)
    offline = partial(theirs, x.double().numpy(), 15, offline=True)
    report("SOM digits 5,391 x 64, 15 x 15: time over minisom's batch rule", ratios(partial(ours, x, 15), offline, 2), must=1 / 20)
    if not good:
        raise SystemExit("one of our errors is above minisom's")


if __name__ == "__main__":
    main()
