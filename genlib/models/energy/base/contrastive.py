"""Contrastive divergence (Hinton 2002, doi:10.1162/089976602760128018) as a task, for visible units of any kind.

The rule adds E_data[v h'] - E_model[v h'] to the weights; the model's side comes from Gibbs steps from the data, or from persistent chains.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib import distributed
from genlib.companions import Companions
from genlib.data.transforms.vectors import VectorTransform
from genlib.functional import gibbs
from genlib.functional.gibbs import Draw, Gradient, RBMParams
from genlib.models.energy.base.rbm_base import RBMBase
from genlib.task import learning_rule, weighted
from genlib.types import Batch, DataSource, Metrics, Step

_MEASURED, _BATCH = 10_000, 500
"""Training samples that means are taken over, and read at once."""
_UNITS_TRAINING, _UNITS_HELD_OUT = 1, 16
"""Units of a sample that the pseudo-likelihood looks at."""


class ContrastiveTask(RBMBase):
    """Base of the tasks: contrastive divergence for visible units of any kind."""

    companions = Companions(
        assess="genlib.models.energy.base.rbm_assess:assess",
        sheet="genlib.models.energy.base.rbm_assess:sheet",
        no_graphs="its units are drawn at random again and again (Gibbs sampling), and a graph is one pass without chance",
        example="genlib.models.energy.base.contrastive:example",
    )

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


def share_of(count: int, rank: int, world: int) -> tuple[int, int]:
    """[low, high) of `count` things that belong to the rank: equal shares, the last ones shorter or empty."""
    size = -(-count // world)
    return min(rank * size, count), min((rank + 1) * size, count)
