"""Rectified flow: eight modes on a ring in few steps, straighter after a reflow, and the families that do it with pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from genlib import companions, random
from genlib.functional.diffusion import straightness
from genlib.models.diffusion.base.flow import Velocity, flow_loss, follow, path
from genlib.models.diffusion.base.pixels import PixelUNet
from genlib.models.diffusion.rectified_flow import RectifiedFlow, RectifiedFlowConfig, ReflowConfig
from genlib.random import seeded_normal
from genlib.types import DataSpec, Step

MODES, STD = 8, 0.1
SMALL = PixelUNet(widths=(16, 16), norm_groups=4)
DATA = DataSpec(channels=1, image_size=8)


def rings2d(position: Tensor) -> Tensor:
    """Eight narrow Gaussians on the unit circle, keyed by positions (B,) -> (B, 2)."""
    angle = random.randint(position, MODES, seed=0, stream="mode") * (2 * math.pi / MODES)
    return torch.stack([angle.cos(), angle.sin()], 1) + STD * random.normal(position, (2,), seed=0, stream="place")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3 + 6, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))


def velocity_of(net: nn.Module) -> Velocity:
    """The network on points (B, 2) and times (B,), with three octaves of the time."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        waves = [wave(t * math.pi * octave) for octave in (1, 2, 4) for wave in (torch.sin, torch.cos)]
        return net(torch.cat([x, torch.stack([t, *waves], 1)], 1))

    return velocity


def learnt(velocity: Velocity, net: nn.Module, pair, steps: int) -> None:
    """Trains on pairs (data, noise) of positions."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        position = torch.arange(step * 256, (step + 1) * 256)
        x0, noise = pair(position)
        flow_loss(velocity, x0, noise, random.uniform(position, seed=0, stream="t")).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()


def noise_at(position: Tensor) -> Tensor:
    return random.normal(position, (2,), seed=0, stream="noise")


@dataclass
class Flows:
    """A flow, and what one reflow made of it."""

    first: Velocity
    second: Velocity


@pytest.fixture(scope="module")
def flows() -> Flows:
    first_net, second_net = network(0), network(0)
    first, second = velocity_of(first_net), velocity_of(second_net)
    learnt(first, first_net, lambda position: (rings2d(position), noise_at(position)), 1200)
    second_net.load_state_dict(first_net.state_dict())
    with torch.no_grad():
        noise = noise_at(torch.arange(100 * 256))
        pictures = follow(first, noise, 50)

    def pair(position: Tensor) -> tuple[Tensor, Tensor]:
        return pictures[position % len(noise)], noise[position % len(noise)]

    learnt(second, second_net, pair, 600)
    return Flows(first, second)


def fresh_noise(count: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_d17_16_steps_reach_all_modes_of_a_ring_and_little_else(flows: Flows) -> None:
    points = follow(flows.first, fresh_noise(2000), 16)
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    distance = torch.cdist(points, torch.stack([angle.cos(), angle.sin()], 1))
    near, mode = distance.min(1)
    share = torch.bincount(mode[near < 3 * STD], minlength=MODES) / len(points)
    assert (share > 0.5 / MODES).all()
    assert share.sum() > 0.75


@torch.no_grad()
def test_d18_a_reflow_is_straighter_and_errs_less_in_4_steps(flows: Flows) -> None:
    noise, bends, errors = fresh_noise(1000), [], []
    for velocity in (flows.first, flows.second):
        points = path(velocity, noise, 100)
        bends.append(straightness(points, torch.linspace(0, 1, 101)).mean())
        errors.append((follow(velocity, noise, 4) - points[-1]).square().sum(1).mean())
    assert bends[1] < 0.5 * bends[0]
    assert errors[1] < 0.5 * errors[0]


def test_a_constant_velocity_is_followed_exactly_in_any_number_of_steps() -> None:
    noise, way = torch.randn(5, 2), torch.tensor([1.0, -2.0])
    for steps in (1, 3, 10):
        torch.testing.assert_close(follow(lambda x, t: way.expand_as(x), noise, steps), noise - way)
    points = path(lambda x, t: way.expand_as(x), noise, 4)
    assert torch.equal(points[0], noise)
    assert straightness(points, torch.linspace(0, 1, 5)).max() < 1e-9


def test_euler_converges_to_the_closed_form() -> None:
    """For data 0 the line from noise n is t n, its velocity x / t, and its end 0; for data N(0, s**2) the end is s n."""
    noise, s = torch.randn(100, 1), 0.5

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        variance = (1 - t) ** 2 * s**2 + t**2
        return x * ((t - (1 - t) * s**2) / variance)[:, None]

    few, many = (follow(velocity, noise, steps) - s * noise for steps in (10, 400))
    assert many.abs().max() < 0.02
    assert many.abs().mean() < 0.1 * few.abs().mean()


def flow() -> RectifiedFlow:
    torch.manual_seed(0)
    task = RectifiedFlow(RectifiedFlowConfig(unet=SMALL), DATA)
    for p in task.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    return task


def test_reflow_begins_as_its_teacher_and_learns_the_teachers_pairs() -> None:
    teacher = flow()
    task = ReflowConfig(teacher_steps=3).build(DATA, {"teacher": teacher})
    seeds = [1, 2]
    assert torch.equal(task.generate(seed=seeds, steps=3), teacher.generate(seed=seeds, steps=3))
    batch = companions.example(task, 4)
    encoded = task.encode(batch)
    torch.testing.assert_close(encoded["image"], follow(teacher.velocity, encoded["noise"], 3))
    elsewhere = task.encode({**batch, "position": batch["position"] + 7, "image": torch.zeros(4, 1, 8, 8)})
    assert all(torch.equal(encoded[name], elsewhere[name]) for name in encoded)
    loss, _ = task.loss("train", {**batch, **encoded}, Step(0, 1))
    loss.mean().backward()
    assert all(p.grad is not None for p in task.net.parameters())
    assert all(p.grad is None for p in teacher.net.parameters())


def test_a_picture_belongs_to_its_seed_alone() -> None:
    task = flow()
    many = task.generate(seed=[4, 5, 6], steps=3)
    torch.testing.assert_close(task.generate(seed=[5], steps=3)[0], many[1], atol=1e-4, rtol=0)
    one = seeded_normal([5], (1, 8, 8))
    v = task.velocity(one, torch.ones(1))
    torch.testing.assert_close(task.generate(seed=[5], steps=1), ((one - v) / 2 + 0.5).clamp(0, 1))


def test_refuses_a_teacher_that_is_none_and_no_steps() -> None:
    with pytest.raises(ValueError, match="reflow straightens a trained rectified flow"):
        ReflowConfig().build(DATA, {})
    with pytest.raises(ValueError, match="steps is 0"):
        flow().generate(seed=[1], steps=0)
