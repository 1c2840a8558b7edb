"""One rank of the row "full size", by whichever genlib is on the path: the U-Net of Stable Diffusion 2, trained by `genlib.engine.fit`.

python full_size_rank.py RANK WORLD STORE RUN STEPS OPTIMIZER WIDTH; 320 for WIDTH is the published U-Net, of 865,910,724 weights.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from genlib.config import OptimConfig, TaskConfig, TrainConfig
from genlib.engine.fit import fit
from genlib.recipe import Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step

SIDE, TOKENS, FEATURES = 64, 77, 1024
ROWS = 2
"""Samples a step, of all ranks."""


class Denoiser(Task):
    """The U-Net with checkpointed activations, on latents and texts that are given; it tells apart noise and latent."""

    def __init__(self, width: int) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel  # type: ignore[attr-defined]

        self.net = UNet2DConditionModel(
            sample_size=SIDE, block_out_channels=(width, 2 * width, 4 * width, 4 * width), cross_attention_dim=FEATURES,
            attention_head_dim=(5, 10, 20, 20), use_linear_projection=True,  # type: ignore[arg-type]
        )  # fmt: skip
        self.net.enable_gradient_checkpointing()

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        time = batch["position"].remainder(1000)
        angle = (time / 1000 * torch.pi / 2).view(-1, 1, 1, 1)
        noisy = angle.cos() * batch["latent"] + angle.sin() * batch["noise"]
        return (self.net(noisy, time, batch["text"]).sample - batch["noise"]).square().mean((1, 2, 3)), {}


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiserConfig(TaskConfig):
    """Of so many channels at the first level."""

    width: int = 320

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Task:
        return Denoiser(self.width)


class MadeUp:
    """A source of latents, noise and texts, each of its position."""

    spec = DataSpec(num_samples=1_000, digest="made-up")

    def batches(self, split: str, size: int, *, rank: int = 0, world: int = 1, start: int = 0, **_: Any) -> Iterator[Batch]:
        each = -(-size // world)
        while split == "train":
            position = torch.arange(start + rank * each, start + rank * each + each)
            made = [torch.Generator().manual_seed(int(one)) for one in position]
            latent, noise = (torch.stack([torch.randn(4, SIDE, SIDE, generator=one) for one in made]) for _ in range(2))
            text = torch.stack([torch.randn(TOKENS, FEATURES, generator=one) for one in made])
            valid = position < start + size
            yield {"latent": latent, "noise": noise, "text": text, "position": position, "valid": valid, "weight": valid.float()}
            start += size

    def captions(self, split: str, limit: int) -> Iterator[str]:
        return iter(())

    def encoded_set(self, identity: str, folder: str = "") -> None:
        return None

    def keys(self, split: str, positions: Sequence[int], size: int = 0, *, seed: int = 0) -> list[str]:
        return [f"row-{position}" for position in positions]


def main(rank: int, world: int, store: str, run: str, steps: int, optimizer: str, width: int) -> None:
    """Trains up to that step, saving after each."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    strategy = "single"
    if world > 1:
        strategy = "zero3"
        places = dist.FileStore(store, world)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=places, rank=rank, world_size=world, timeout=timedelta(hours=2))
    optim = OptimConfig(name=optimizer, learning_rate=1e-5)  # type: ignore[arg-type]
    train = TrainConfig(
        steps=steps, global_batch=ROWS, strategy=strategy, checkpoint_every_steps=1, trackers=(), optim=optim,
        log_every_seconds=1.0,
    )  # fmt: skip
    stage = Stage(task=DenoiserConfig(width=width), train=train)
    fit(stage, recipe="full size", source=MadeUp(), folder=Path(run), device=torch.device("cpu"))  # type: ignore[arg-type]


if __name__ == "__main__":  # by its name, under which checkpoints remember the class of the task
    words = sys.argv[1:]
    importlib.import_module("full_size_rank").main(int(words[0]), int(words[1]), words[2], words[3], int(words[4]), words[5], int(words[6]))
