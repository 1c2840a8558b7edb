"""Restricted Boltzmann machines (Smolensky 1986), learnt by contrastive divergence (Hinton 2002, doi:10.1162/089976602760128018).

A side of visible units and a side of hidden ones give each pair of their states an energy, and data should have less of it than all
else. The rule adds E_data[v h'] - E_model[v h'] to the weights. Where the model's side comes from tells the two ways apart: a few Gibbs
steps from the data (CD-k), or chains of Gibbs steps that go on from update to update (PCD, Tieleman 2008, doi:10.1145/1390156.1390290),
which see more of what the model believes in. Choices of settings follow Hinton's guide (2012,
doi:10.1007/978-3-642-35289-8_32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import distributed
from genlib.companions import Companions
from genlib.config import DataConfig, OptimConfig, TrainConfig
from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.functional import gibbs
from genlib.functional.gibbs import Draw, Gradient, RBMParams
from genlib.models.energy.base.rbm_base import RBMBase, RBMBaseConfig
from genlib.recipe import Recipe, Stage
from genlib.task import Task, learning_rule, weighted
from genlib.types import Batch, DataSource, DataSpec, Metrics, Step

_MEASURED, _BATCH = 10_000, 500
"""Training samples that means are taken over, and read at once."""
_UNITS_TRAINING, _UNITS_HELD_OUT, _STRIDE = 1, 16, 7919
"""Units of a sample whose chance given all others is looked at, for the pseudo-likelihood, and how far apart: a prime, to come by all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RBMConfig(RBMBaseConfig):
    """Visible units of 0 and 1; numbers in [0, 1], such as grey pixels, are the chance of a 1."""

    sample_pixels: bool = True
    """Throw a coin for each number in [0, 1] each time a sample is seen: the model then is one of binary data, and its likelihood that of
    data. False learns from the chances as they are, with less noise and a worse likelihood."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> RBM:
        return RBM(self, VectorShape.of(data, self.image_size))


class ContrastiveTask(RBMBase):
    """Base of the tasks: contrastive divergence for visible units of any kind."""

    companions = Companions(assess="genlib.models.energy.rbm_assess:assess", example="genlib.models.energy.rbm:example")

    def drawn(self, v: Tensor, draw: Draw) -> Tensor:
        """A state of the visible units, given their means (B, V)."""
        raise NotImplementedError

    def states(self, v: Tensor, draw: Draw) -> Tensor:
        """What the rule sets the visible units to, given their means."""
        return self.drawn(v, draw)

    def misfit(self, rbm: RBMParams, v: Tensor, draw: Draw, count: int, given: Tensor | None = None) -> Tensor:
        """How badly states v (B, V) fit, (B,), without Z, by `count` units of each where all cost too much; given: their hidden input."""
        raise NotImplementedError

    def measure(self, x: Tensor) -> None:
        """Sets `base`, and scales, by samples (N, D). ValueError where they are nothing for such units."""
        raise NotImplementedError

    def visible(self, batch: Batch) -> Tensor:
        """Means of the visible units (B, V) in a batch as `loss` gets it."""
        return self.to_visible(batch["x"])

    def transform(self, train: bool) -> VectorTransform:
        return VectorTransform(self.shape)

    def prepare(self, source: DataSource) -> None:
        """Visible biases at the log-odds of the data's means, and chains drawn from them."""
        self.measure(torch.cat(list(self.first_samples(source))))
        self.first_chains()

    @torch.no_grad()
    def first_chains(self) -> None:
        """Starts the visible biases at `base`, and draws the chains from them."""
        net = self.net
        net.visible.copy_(net.base)
        slots = torch.arange(self.config.chains, device=net.base.device)
        net.chain_visible.copy_(self.units.sample(net.base.expand(len(slots), -1), Draw(slots), "first chains"))
        net.chain_hidden.copy_(self.params().hidden_chance(net.chain_visible))

    def first_samples(self, source: DataSource) -> Iterator[Tensor]:
        """The first training samples, in parts (B, D)."""
        count = min(source.spec.num_samples, _MEASURED)
        for batch in source.batches("train", _BATCH, transform=self.transform(train=False)):
            yield batch["x"][:count][batch["valid"][:count]].to(self.device)
            count -= len(batch["x"])
            if count <= 0:
                return

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        net = self.net
        with torch.no_grad(), torch.autocast(net.weight.device.type, enabled=False):  # coins of rounded chances are others
            gradient, values = self.rule(batch, step)
        return learning_rule((net.weight, gradient.weight), (net.visible, gradient.visible), (net.hidden, gradient.hidden)), values

    def rule(self, batch: Batch, step: Step) -> tuple[Gradient, Metrics]:
        """What contrastive divergence descends, with chains from the data or persistent ones; `loss` is `misfit`."""
        rbm, draw = self.params(), Draw(batch["position"], step.seed)
        v = self.states(self.visible(batch), draw)
        given = rbm.hidden_input(v)
        h, share = torch.sigmoid(given), weighted(v.new_ones(len(v)), batch) / len(v)
        model = self.fantasies(share) if self.config.chains else (*gibbs.gibbs(rbm, h, self.config.gibbs_steps, draw), share)
        return gibbs.contrast((v, h, share), model), {"loss": self.misfit(rbm, v, draw, _UNITS_TRAINING, given)}

    def slots(self) -> slice:
        """The persistent chains that this rank moves."""
        return slice(*share_of(self.config.chains, distributed.rank(), distributed.world_size()))

    def fantasies(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """This rank's chains, and the share of each in a mean over ranks."""
        mine = self.slots()
        v, h = self.net.chain_visible[mine], self.net.chain_hidden[mine]
        return v, h, like.new_full((len(v),), distributed.world_size() / self.config.chains)

    def after_step(self, step: Step) -> None:
        """Moves the persistent chains, each rank its own, under the weights as they now are."""
        net, chains, mine, world = self.net, self.config.chains, self.slots(), distributed.world_size()
        if not chains:
            return
        slots = torch.arange(step.index * chains + mine.start, step.index * chains + mine.stop, device=net.weight.device)
        draw = Draw(slots, step.seed, "chain ")
        moved = gibbs.gibbs(self.params(), net.chain_hidden[mine], self.config.gibbs_steps, draw)
        for buffer, values in zip((net.chain_visible, net.chain_hidden), moved, strict=True):
            missing = -(-chains // world) - len(values)
            padded = F.pad(values, (0, 0, 0, missing)) if missing else values
            buffer.copy_(distributed.all_gather(padded)[:chains])

    def evaluate(self, batch: Batch) -> Metrics:
        """`loss`: `misfit`; `reconstruction`: mean squared error of the visible units' means after one step up and down."""
        rbm, v = self.params(), self.visible(batch)
        draw = Draw(batch["position"])
        error = (rbm.visible_mean(rbm.hidden_chance(v)) - v).square().mean(1)
        return {"loss": self.misfit(rbm, self.drawn(v, draw), draw, _UNITS_HELD_OUT), "reconstruction": error}


def example(task: ContrastiveTask, size: int) -> Batch:
    """See `Companions.example`."""
    return {"x": torch.rand(size, task.shape.size)}


class RBM(ContrastiveTask):
    """The task, for Bernoulli units."""

    config: RBMConfig

    def __init__(self, config: RBMConfig, shape: VectorShape, visible: int = 0, upstream: Mapping[str, Task] | None = None) -> None:
        super().__init__(config, shape, visible or shape.size, upstream=upstream)

    def drawn(self, v: Tensor, draw: Draw) -> Tensor:
        return draw.coins(v, "pixels")

    def states(self, v: Tensor, draw: Draw) -> Tensor:
        return self.drawn(v, draw) if self.config.sample_pixels else v

    def misfit(self, rbm: RBMParams, v: Tensor, draw: Draw, count: int, given: Tensor | None = None) -> Tensor:
        """-log pseudo-likelihood, nats."""
        size, count = v.shape[1], min(count, v.shape[1])
        number = (draw.position * (count * _STRIDE))[:, None] + torch.arange(0, count * _STRIDE, _STRIDE, device=v.device)
        return -gibbs.pseudo_likelihood(rbm, v, number % size, given)

    def measure(self, x: Tensor) -> None:
        """Sets `base` by samples (N, D), with a pseudo-count of one for each value. ValueError where a number is not in [0, 1]."""
        if x.min() < 0 or x.max() > 1:
            raise ValueError(
                f"the samples have numbers from {x.min():.3g} to {x.max():.3g}, and Bernoulli units take chances in [0, 1]; "
                "take the recipe rbm_gaussian, or images"
            )
        v = self.to_visible(x)
        self.net.base.copy_(torch.logit((v.sum(0) + 1) / (len(v) + 2)))


def share_of(count: int, rank: int, world: int) -> tuple[int, int]:
    """[low, high) of `count` things that belong to the rank: equal shares, the last ones shorter or empty."""
    size = -(-count // world)
    return min(rank * size, count), min((rank + 1) * size, count)


def smoke(task: RBMBaseConfig, data: str) -> tuple[Stage, ...]:
    """The smallest form of a recipe."""
    train = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(name="sgd", learning_rate=0.2))
    return (Stage(task=task, data=DataConfig(train=data), train=train),)


def rbm() -> Recipe:
    """Handwritten digits of 8 x 8 pixels, each the chance of a black or white one, by persistent chains.

    `python jobs/train.py rbm`. -22.5 nats a held-out digit (annealed importance sampling, log Z to 0.08), pseudo-likelihood -20.3; 16
    CPU-seconds. A free energy tells a digit from pixels of as many digits 97 times of 100.
    """
    optim = OptimConfig(name="sgd", learning_rate=0.1, momentum=0.5, weight_decay=1e-4, schedule="linear")
    task, train = RBMConfig(chains=500, initial_weight=0.1), TrainConfig(steps=3000, global_batch=100, optim=optim)
    return Recipe(stages=(Stage(task=task, data=DataConfig(train="digits"), train=train),), smoke=smoke(RBMConfig(hidden=16, chains=5), "digits"))
