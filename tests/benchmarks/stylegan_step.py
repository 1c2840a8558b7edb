"""StyleGAN2 training steps of 64 px over stylegan2-pytorch's, with the same penalties on the same steps; one thread.

In 32 steps of 8 images each side updates both players 32 times, penalises the discriminator's gradient at data and fakes 8 times, as that
package does, and looks at path lengths once. Channels are its own: 32 to 512 in the generator, 64 to 512 in the discriminator. Its trainer
wants CUDA, so its networks and losses are called in its trainer's order. The peer needs, in the environment that runs this:

    pip install --no-deps stylegan2-pytorch==1.9.0 kornia==0.8.2 kornia_rs einops
    OMP_NUM_THREADS=1 python -m tests.benchmarks.stylegan_step
"""

from __future__ import annotations

import importlib
import resource
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from genlib.config import OptimConfig, TrainConfig
from genlib.engine.prefetcher import with_weight
from genlib.engine.single import SingleDevice
from genlib.models.adversarial.stylegan.discriminator import StyleDiscriminator
from genlib.models.adversarial.stylegan.settings import StyleGame, StyleNetworks
from genlib.models.adversarial.stylegan.task import StyleGAN
from genlib.models.base.health import Health
from genlib.types import DataSpec, Step
from tests.benchmarks.measure import ratios, report
from tests.open_clip_stub import without_torchvision

SIDE, BATCH, STEPS, PENALTY_EVERY, PATH_EVERY, ROUNDS = 64, 8, 32, 4, 32, 3
WEIGHT = 10.0
"""Of the penalty in the peer: 10 times the squared gradient, which is half of gamma here."""


def peer() -> types.ModuleType:
    """Its one module, without what its command line and trainer need."""
    unused: dict[str, Any] = {name: types.ModuleType(name) for name in ("fire", "aim", "vector_quantize_pytorch")}
    unused["vector_quantize_pytorch"].VectorQuantize = object
    importlib.import_module("kornia.filters")  # before what follows, for which it looks, too
    with without_torchvision("transforms"), mock.patch.dict(sys.modules, unused), mock.patch("torch.cuda.is_available", return_value=True):
        try:
            return importlib.import_module("stylegan2_pytorch.stylegan2_pytorch")
        except ImportError as error:
            raise SystemExit(f"{error}; install the peer as this module's docstring says") from None


class Ours:
    """Our engine on one device."""

    def __init__(self, discriminator_base: int) -> None:
        torch.manual_seed(0)
        game = StyleGame(gamma=2 * WEIGHT, penalise_fakes=True, penalty_every=PENALTY_EVERY, path_weight=1.0, path_every=PATH_EVERY, path_share=1)
        networks = StyleNetworks(channel_base=32 * SIDE, channel_max=512, stddev_group=1)
        self.task = StyleGAN(networks, game, Health(), DataSpec(image_size=SIDE))
        self.task.discriminator = StyleDiscriminator(SIDE, 3, discriminator_base, 512, group=1)
        self.strategy = SingleDevice(torch.device("cpu"))
        self.strategy.setup(self.task, TrainConfig(optim=OptimConfig(name="adam", learning_rate=1e-4, beta1=0.5, beta2=0.9)))
        self.index = 0

    def __call__(self, images: Tensor) -> None:
        for _ in range(STEPS):
            step, positions = Step(self.index, 10**6), torch.arange(BATCH) + BATCH * self.index
            batch = with_weight({"image": images, "position": positions, "valid": torch.ones(BATCH, dtype=torch.bool)}, BATCH)
            for phase in self.task.phases:
                if phase.due(step.index):
                    self.strategy.run_phase(phase, [batch], step)
            self.strategy.after_step(step)
            self.index += 1


class Theirs:
    """The order of its trainer, without loading data, logging, moving averages and checkpoints."""

    def __init__(self, module: types.ModuleType) -> None:
        torch.manual_seed(0)
        self.module = module
        self.styles, self.generator = module.StyleVectorizer(512, 8, lr_mul=0.1), module.Generator(SIDE, 512)
        self.discriminator, self.path_mean = module.Discriminator(SIDE), None
        both = [*self.styles.parameters(), *self.generator.parameters()]
        self.for_generator = torch.optim.Adam(both, lr=1e-4, betas=(0.5, 0.9))
        self.for_discriminator = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.9))

    def fakes(self) -> tuple[Tensor, Tensor]:
        """Styles (B, layers, 512) of two noises, and images."""
        count = self.generator.num_layers
        first = int(torch.rand(()) * count)
        parts = [(self.styles(torch.randn(BATCH, 512)), first), (self.styles(torch.randn(BATCH, 512)), count - first)]
        ws = self.module.styles_def_to_tensor(parts)
        return ws, self.generator(ws, torch.rand(BATCH, SIDE, SIDE, 1))

    def __call__(self, images: Tensor) -> None:
        for index in range(STEPS):
            penalised = index % PENALTY_EVERY == 0
            real, fake = images * 2 - 1, self.fakes()[1].clone().detach()
            if penalised:
                real.requires_grad_(), fake.requires_grad_()
            fake_logits, real_logits = self.discriminator(fake)[0], self.discriminator(real)[0]
            loss = self.module.hinge_loss(fake_logits, real_logits)
            if penalised:
                loss = loss + self.module.gradient_penalty(real, real_logits) + self.module.gradient_penalty(fake, fake_logits)
            self.for_discriminator.zero_grad()
            loss.backward()
            self.for_discriminator.step()
            ws, fake = self.fakes()
            loss = self.module.gen_hinge_loss(self.discriminator(fake)[0], None)
            if index % PATH_EVERY == 0:
                lengths = self.module.calc_pl_lengths(ws, fake)
                self.path_mean = lengths.mean().item() if self.path_mean is None else self.path_mean
                loss = loss + ((lengths - self.path_mean) ** 2).mean()
            self.for_generator.zero_grad()
            loss.backward()
            self.for_generator.step()


def parameters(*modules: torch.nn.Module) -> float:
    """Millions."""
    return round(sum(weight.numel() for module in modules for weight in module.parameters()) / 1e6, 1)


def peak_megabytes(side: str) -> float:
    """Highest resident memory of this process after steps of one side, above what it had before."""
    images = torch.rand(BATCH, 3, SIDE, SIDE)
    run: Callable[[Tensor], None] = Ours(64 * SIDE) if side == "ours" else Theirs(peer())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(images)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(peak_megabytes(sys.argv[1]))
        return
    images = torch.rand(BATCH, 3, SIDE, SIDE)
    ours, theirs = Ours(64 * SIDE), Theirs(peer())
    facts = {
        "parameters of ours in millions": parameters(ours.task), "of theirs": parameters(theirs.styles, theirs.generator, theirs.discriminator)
    }  # fmt: skip
    report(f"StyleGAN2, {STEPS} steps of {BATCH} images", ratios(partial(ours, images), partial(theirs, images), ROUNDS), must=0.70, **facts)


if __name__ == "__main__":
    main()
