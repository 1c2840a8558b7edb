"""What only a GPU shows of StyleGAN, skipped without one; and that its forward pass is one graph, which any machine shows."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from genlib import companions
from genlib.engine.strategies import strategy_of
from genlib.models.adversarial.stylegan.generator import Generator
from genlib.models.adversarial.stylegan.mapping import Mapping
from genlib.models.adversarial.stylegan.recipes import TINY_ALIAS_FREE
from genlib.models.adversarial.stylegan.synthesis2 import Synthesis2
from genlib.models.adversarial.stylegan.synthesis3 import AliasFree, Synthesis3
from genlib.recipe import Stage
from genlib.registry import load
from genlib.types import DataSpec, Step
from tests.models.stages import CPU

MOST_SECONDS = 8.0
"""For a thousand images of 256 pixels by one H200, with channel base 16,384: the floor that was set; 5.5 is wanted."""


def seconds_per_kimg(stage: Stage, spec: DataSpec, device: torch.device, batch: int) -> float:
    """Of steps on made-up images that are on the device, over a whole round of lazy penalties after one to warm up."""
    torch.manual_seed(0)
    task = stage.task.build(spec, {}).train()
    strategy = strategy_of("single", device)
    strategy.setup(task, stage.train)
    rows = {name: value.to(device) for name, value in companions.example(task, batch).items()}
    steps, began = max(phase.every for phase in task.phases), 0.0
    for index in range(2 * steps):
        if index == steps:
            synchronise(device)
            began = time.perf_counter()
        step = Step(index, 10**6)
        for phase in task.phases:
            if phase.due(index):
                strategy.run_phase(phase, [rows], step)
        strategy.after_step(step)
    synchronise(device)
    return (time.perf_counter() - began) / (steps * batch / 1000)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@pytest.mark.gpu
@pytest.mark.slow
def test_a_thousand_images_of_256_pixels_take_no_longer_than_the_floor() -> None:
    (stage,) = load("stylegan2_256").stages
    found = seconds_per_kimg(stage, DataSpec(channels=3, image_size=256, num_samples=1000), torch.device("cuda"), stage.train.global_batch)
    print(f"{found:.2f} s/kimg, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    assert found <= MOST_SECONDS


def test_what_that_measures_is_steps() -> None:
    (stage,) = load("stylegan2").smoke
    assert 0 < seconds_per_kimg(stage, DataSpec(channels=1, image_size=16, num_samples=100), CPU, 8) < 1000


def generator(synthesis: str, side: int, base: int, most: int, design: AliasFree) -> Generator:
    torch.manual_seed(0)
    sizes = (side, 3, most, base, most)
    return Generator(Mapping(most, most, 2), Synthesis2(*sizes) if synthesis == "stylegan2" else Synthesis3(*sizes, design=design)).eval()


def apart(network: nn.Module, compiled: nn.Module, noise: torch.Tensor) -> float:
    """Largest difference of images, which are of about [-1, 1]."""
    with torch.no_grad():
        return (network(noise) - compiled(noise)).abs().max().item()


@pytest.mark.parametrize("synthesis", ["stylegan2", "stylegan3"])
def test_the_forward_pass_is_one_graph(synthesis: str) -> None:
    network = generator(synthesis, 16, 64, 8, TINY_ALIAS_FREE)
    assert apart(network, torch.compile(network, backend="aot_eager", fullgraph=True), torch.randn(2, 8)) < 1e-5


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("synthesis", ["stylegan2", "stylegan3"])
def test_the_compiled_forward_pass_draws_what_the_eager_one_draws(synthesis: str) -> None:
    network, noise = generator(synthesis, 256, 16_384, 512, AliasFree()).cuda(), torch.randn(4, 512, device="cuda")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    assert apart(network, torch.compile(network), noise) < 1e-3
