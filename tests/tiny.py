"""Eight kinds of learner in their smallest form, and a source in memory: what the engine's tests train."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib import random
from genlib.config import TaskConfig
from genlib.distributed import all_gather, gather_with_grad, rank
from genlib.task import Phase, Task, learning_rule, weighted, weighted_mean
from genlib.types import Batch, DataSpec, Metrics, Step, Transform

FEATURES = 32


class ArraySource:
    """`rows` vectors of 32 features in a fixed shuffled order; batches as the contract of DataSource says."""

    def __init__(self, rows: int = 96, bad_positions: Sequence[int] = ()) -> None:
        self.x = torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(1))
        self.bad = set(bad_positions)
        self.spec = DataSpec(num_samples=rows, digest=f"array-{rows}")

    def batches(
        self, split: str, size: int, *, rank: int = 0, world: int = 1, seed: int = 0, start: int = 0, transform: Transform | None = None
    ) -> Iterator[Batch]:
        per_rank = -(-size // world)
        while split == "train" or start < len(self.x):
            low = start + rank * per_rank
            position = torch.arange(low, low + per_rank)
            order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.x)))
            x = self.x[order[position % len(self.x)]].clone()
            x[[i for i, p in enumerate(position.tolist()) if p in self.bad]] = torch.nan
            yield {"x": x, "position": position, "valid": position < start + size}
            start += size

    def captions(self, split: str, limit: int) -> Iterator[str]:
        return iter(())

    def encoded_set(self, identity: str, folder: str = "") -> None:
        return None

    def keys(self, split: str, positions: Sequence[int], size: int, *, seed: int = 0) -> list[str]:
        return [f"row-{position}" for position in positions]


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def noise(batch: Batch, size: int, step: Step, stream: str = "z") -> Tensor:
    return random.normal(batch["position"], (size,), seed=step.seed, stream=stream)


class VAE(Task):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"encoder": mlp(FEATURES, 32, 8), "decoder": mlp(4, 32, FEATURES)})

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        mean, logvar = self.net["encoder"](batch["x"]).chunk(2, 1)
        z = mean + (logvar / 2).exp() * noise(batch, 4, step)
        distortion = (self.net["decoder"](z) - batch["x"]).square().sum(1)
        rate = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1)
        return distortion + rate, {"rate": rate}

    def evaluate(self, batch: Batch) -> Metrics:
        mean = self.net["encoder"](batch["x"]).chunk(2, 1)[0]
        return {"distortion": (self.net["decoder"](mean) - batch["x"]).square().sum(1)}


class GAN(Task):
    phases = (Phase(name="discriminator", player="D"), Phase(name="generator", player="G", every=2))

    def __init__(self) -> None:
        super().__init__()
        self.G, self.D = mlp(4, 32, FEATURES), mlp(FEATURES, 32, 1)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        fake = self.G(noise(batch, 4, step, phase))
        if phase == "generator":
            return F.softplus(-self.D(fake))[:, 0], {}
        return (F.softplus(self.D(fake.detach())) + F.softplus(-self.D(batch["x"])))[:, 0], {}


class WGANGP(GAN):
    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        fake = self.G(noise(batch, 4, step, phase))
        if phase == "generator":
            return -self.D(fake)[:, 0], {}
        fake, share = fake.detach(), random.uniform(batch["position"], (1,), seed=step.seed, stream="mix")
        mixed = (share * batch["x"] + (1 - share) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(self.D(mixed).sum(), mixed, create_graph=True)
        penalty = (gradient.norm(2, 1) - 1).square()
        return (self.D(fake) - self.D(batch["x"]))[:, 0] + 10 * penalty, {"penalty": penalty}


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = mlp(FEATURES, 32, 8), mlp(FEATURES, 32, 8)
        self.scale = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.normalize(self.a(x), dim=1), F.normalize(self.b(y), dim=1), self.scale.exp()


class CLIP(Task):
    phases = (Phase(joint=True),)

    def __init__(self) -> None:
        super().__init__()
        self.net = TwoTowers()

    def joint_features(self, phase: str, batch: Batch, step: Step) -> Batch:
        a, b, scale = self.net(batch["x"], batch["x"] + 0.1 * noise(batch, FEATURES, step))
        return {"a": a, "b": b, "scale": scale.expand(len(a))}

    def joint_loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        a, b, scale = batch["a"], batch["b"], batch["scale"][:1]
        every_a, every_b, counts = gather_with_grad(a), gather_with_grad(b), all_gather(batch["valid"])
        target = torch.arange(len(a)) + rank() * len(a)
        to_b = (scale * a @ every_b.T).masked_fill(~counts, -1e9)
        to_a = (scale * b @ every_a.T).masked_fill(~counts, -1e9)
        return (F.cross_entropy(to_b, target, reduction="none") + F.cross_entropy(to_a, target, reduction="none")) / 2, {"scale": scale[0]}


class RBM(Task):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ParameterDict({"W": torch.randn(16, FEATURES) * 0.1, "visible": torch.zeros(FEATURES), "hidden": torch.zeros(16)})

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        W, visible, hidden = self.net["W"], self.net["visible"], self.net["hidden"]
        with torch.no_grad():
            v0 = (batch["x"] > 0).float()
            h0 = torch.sigmoid(v0 @ W.T + hidden)
            sample = (random.uniform(batch["position"], (16,), seed=step.seed, stream="h") < h0).float()
            v1 = torch.sigmoid(sample @ W + visible)
            h1 = torch.sigmoid(v1 @ W.T + hidden)
            rise = (weighted(h0, batch).T @ v0 - weighted(h1, batch).T @ v1) / len(v0)
        loss = learning_rule((W, -rise), (visible, -weighted(v0 - v1, batch).mean(0)), (hidden, -weighted(h0 - h1, batch).mean(0)))
        return loss, {"error": (v0 - v1).square().mean(1)}


class SOM(Task):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ParameterDict({"prototypes": torch.randn(25, FEATURES)})
        self.register_buffer("grid", torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        prototypes, radius = self.net["prototypes"], 2.0 * 0.25**step.progress
        with torch.no_grad():
            winner = torch.cdist(batch["x"], prototypes).argmin(1)
            pull = weighted(torch.exp(-torch.cdist(self.grid[winner], self.grid).square() / (2 * radius**2)), batch)
            move = (pull.T @ batch["x"] - pull.sum(0)[:, None] * prototypes) / len(winner)
        return learning_rule((prototypes, -move)), {"quantisation": (batch["x"] - prototypes[winner]).norm(dim=1)}


class OnCodes(Task):
    """A prior over the codes of a frozen first stage."""

    def __init__(self, first: Task) -> None:
        super().__init__({"first": first})
        self.net = mlp(4, 32, 4)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        with torch.no_grad():
            code = self.upstream["first"].net["encoder"](batch["x"])[:, :4]
        return (self.net(noise(batch, 4, step)) - code).square().mean(1), {}


class Momentum(Task):
    """A key encoder that follows the trained one in `after_step`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(FEATURES, 16, 8)
        self.key = copy.deepcopy(self.net).requires_grad_(False)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        with torch.no_grad():
            key = self.key(batch["x"] + 0.1 * noise(batch, FEATURES, step))
        return (self.net(batch["x"]) - key).square().mean(1), {}

    def after_step(self, step: Step) -> None:
        for key, query in zip(self.key.parameters(), self.net.parameters(), strict=True):
            key.lerp_(query, 0.1)


KINDS = {kind.__name__: kind for kind in (VAE, GAN, WGANGP, CLIP, RBM, SOM, OnCodes, Momentum)}


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyConfig(TaskConfig):
    kind: str = "VAE"

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Task:
        if self.kind != "OnCodes":
            return KINDS[self.kind]()
        first = dict(upstream).get("first") or VAE()
        return OnCodes(first)


__all__ = ["KINDS", "ArraySource", "TinyConfig", "weighted_mean"]
