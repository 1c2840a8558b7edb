"""An epoch of an RBM over 6,000 samples of 784 numbers in batches of 100: ours over scikit-learn's BernoulliRBM; one thread.

Both keep 100 persistent chains, with single precision and grey values as they are. Ours is the task in the engine's own step, with its
loss, gradient norm and momentum-free SGD.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.rbm
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from sklearn.neural_network import BernoulliRBM
from torch import Tensor

from genlib.config import OptimConfig, TrainConfig
from genlib.data.transforms.vectors import VectorShape
from genlib.engine.single import SingleDevice
from genlib.models.energy.rbm import RBM, RBMConfig
from genlib.types import Step
from tests.benchmarks.measure import ratios, report

SAMPLES, SIZE, BATCH, RATE = 6000, 784, 100, 0.05


def samples() -> Tensor:
    """Grey values with as many zeros as pictures on black have, (SAMPLES, SIZE)."""
    draws = torch.Generator().manual_seed(0)
    return torch.rand(SAMPLES, SIZE, generator=draws) * (torch.rand(SAMPLES, SIZE, generator=draws) < 0.4)


def engine(hidden: int) -> SingleDevice:
    """Our RBM, ready to train."""
    torch.manual_seed(0)
    task = RBM(RBMConfig(hidden=hidden, chains=BATCH, sample_pixels=False), VectorShape((SIZE,)))
    task.net.chain_hidden.fill_(0.5)
    strategy = SingleDevice(torch.device("cpu"))
    strategy.setup(task.train(), TrainConfig(optim=OptimConfig(name="sgd", learning_rate=RATE)))
    return strategy


def ours(strategy: SingleDevice, x: Tensor) -> None:
    for index, part in enumerate(x.split(BATCH)):
        batch = {"x": part, "position": torch.arange(index * BATCH, (index + 1) * BATCH), "weight": torch.ones(BATCH)}
        step = Step(index, SAMPLES // BATCH)
        strategy.run_phase(strategy.task.phases[0], [batch], step)
        strategy.after_step(step)


def theirs(x: np.ndarray, hidden: int) -> None:
    BernoulliRBM(hidden, learning_rate=RATE, batch_size=BATCH, n_iter=1, random_state=0).fit(x)


def main() -> None:
    torch.set_num_threads(1)
    x = samples()
    for hidden in (256, 64):
        sides = partial(ours, engine(hidden), x), partial(theirs, x.numpy(), hidden)
        report(f"RBM epoch {SAMPLES} x {SIZE}, {hidden} hidden: time over scikit-learn", ratios(*sides, 5), must=1.0)


if __name__ == "__main__":
    main()
