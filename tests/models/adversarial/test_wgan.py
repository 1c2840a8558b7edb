"""The Wasserstein GAN with clipped weights: how large they are after each update, and what its loss is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genlib import companions
from genlib.config import OptimConfig, TrainConfig
from genlib.engine.strategies import strategy_of
from genlib.functional.divergence import wasserstein_1
from genlib.models.adversarial.gan import Dense
from genlib.models.adversarial.wgan import WGAN, Clipped, WGANConfig
from genlib.registry import load
from genlib.types import DataSpec, Step
from tests.models.stages import CPU

POINTS = DataSpec(vector_size=2)


def made(clip: float = 0.01) -> WGAN:
    torch.manual_seed(0)
    return WGANConfig(network=Dense(latent_dim=4, width=16, layers=2), game=Clipped(clip=clip)).build(POINTS, {})


def largest(task: WGAN, player: str) -> float:
    return max(weight.abs().max().item() for weight in task.player(player).state_dict().values())


@pytest.mark.parametrize("strategy", ["single", "zero1", "zero2"])
@pytest.mark.parametrize("clip", [0.01, 0.05])
def test_the_critics_weights_are_small_after_each_of_its_updates_and_the_generators_are_free(strategy: str, clip: float) -> None:
    task, chosen = made(clip), strategy_of(strategy, CPU)
    batch = companions.example(task, 8)
    chosen.setup(task, TrainConfig(optim=OptimConfig(name="rmsprop", learning_rate=5e-3)))
    critic, generator = task.phases
    assert largest(task, "discriminator") > clip
    for index in range(3):
        chosen.run_phase(critic, [batch], Step(index, 10))
        assert largest(task, "discriminator") == pytest.approx(clip), "with a learning rate that reaches the limit"
        chosen.run_phase(generator, [batch], Step(index, 10))
        assert largest(task, "discriminator") == pytest.approx(clip)
    assert largest(task, "generator") > 2 * clip


def test_the_settings_are_the_papers() -> None:
    assert (Clipped().clip, Clipped().n_critic) == (0.01, 5)
    (stage,) = load("wgan").stages
    assert all(optim.name == "rmsprop" and not optim.momentum for optim in (stage.train.optim, *stage.train.players.values()))


def test_losses_are_differences_of_scores_without_a_sigmoid() -> None:
    task = made()
    batch, step = companions.example(task, 8), Step(0, 10)
    real, fake, *_ = task.discriminator_logits(batch, step)
    loss, metrics = task.loss("discriminator", batch, step)
    torch.testing.assert_close(loss, (task.discriminator(fake) - task.discriminator(real))[:, 0])
    torch.testing.assert_close(metrics["wasserstein"], -loss * task.scale)
    torch.testing.assert_close(task.loss("generator", batch, step)[0], -task.generator_logits(batch, step)[:, 0])


@pytest.mark.parametrize("distance", [2, 5])
def test_the_earth_movers_distance_of_eight_cubes(distance: int) -> None:
    """Three, two and two cubes move by d, the last by d - 1 (the chapter's figure): 3d + 2d + 2d + (d - 1), over eight."""
    cubes = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3], dtype=torch.float64)
    moved: Tensor = cubes + distance
    moved[-1] -= 1
    assert 8 * wasserstein_1(cubes, moved).item() == pytest.approx(3 * distance + 2 * distance + 2 * distance + (distance - 1))
