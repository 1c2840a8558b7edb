"""Four epochs of a dense VAE over 14,108 grey images of 28 px, a whole run each: our engine over pythae's trainer; one thread.

The same networks (784-512-16-512-784), loss, batch and optimizer. Ours reads shards and writes a checkpoint that verifies; pythae has
the images in memory already and saves its model.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.vae
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import tempfile
import types
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from genlib.config import DataConfig, OptimConfig, TrainConfig
from genlib.data.source import ShardSource, open_source
from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.engine.fit import fit
from genlib.models.variational.vae import VAEConfig
from genlib.recipe import Stage
from tests.benchmarks.measure import ratios, report
from tests.open_clip_stub import without_torchvision

DATA = DataConfig(train="icons", image_size=28)
EPOCHS, BATCH, LEARNING_RATE, HIDDEN, CODES = 4, 128, 1e-3, 512, 16


def pythae() -> tuple[types.ModuleType, types.ModuleType]:
    """Its models and trainers."""
    with without_torchvision("transforms", "datasets", "models", "utils"):
        found = importlib.import_module("pythae.models"), importlib.import_module("pythae.trainers")
    logging.getLogger("pythae").setLevel(logging.ERROR)
    return found


def all_images(source: ShardSource) -> Tensor:
    """The training split, (N, 1, 28, 28)."""
    shape = VectorShape.of(source.spec)
    batch = next(iter(source.batches("train", source.spec.num_samples, transform=VectorTransform(shape))))
    return shape.image(batch["x"])


def ours(source: ShardSource) -> None:
    steps = EPOCHS * source.spec.num_samples // BATCH
    train = TrainConfig(
        steps=steps, global_batch=BATCH, optim=OptimConfig(name="adam", learning_rate=LEARNING_RATE), pictures_every_steps=0, trackers=()
    )
    stage = Stage(task=VAEConfig(latent_dim=CODES, widths=(HIDDEN,)), data=DATA, train=train)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        fit(stage, recipe="vae", source=source, folder=Path(folder), device=torch.device("cpu"))


def theirs(images: Tensor) -> None:
    models, trainers = pythae()
    model = models.VAE(models.VAEConfig(input_dim=tuple(images.shape[1:]), latent_dim=CODES, reconstruction_loss="bce"))
    data = importlib.import_module("pythae.data.datasets").BaseDataset(images, torch.zeros(len(images)))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        config = trainers.BaseTrainerConfig(
            output_dir=folder, per_device_train_batch_size=BATCH, num_epochs=EPOCHS, learning_rate=LEARNING_RATE, no_cuda=True
        )
        trainers.BaseTrainer(model=model, train_dataset=data, training_config=config).train()


def main() -> None:
    torch.set_num_threads(1)
    source = open_source(DATA)
    sides = [partial(ours, source), partial(theirs, all_images(source))]
    report(f"VAE, {EPOCHS} epochs, N={source.spec.num_samples}: CPU time over pythae's trainer", ratios(*sides, 5), must=0.8)


if __name__ == "__main__":
    main()
