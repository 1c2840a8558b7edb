"""Deep belief networks (Hinton, Osindero & Teh 2006, doi:10.1162/neco.2006.18.7.1527): a stack of RBMs, learnt one after the other.

Each RBM learns what the hidden units of the one below say of the data. The top two sides then are an RBM, all sides below follow from
them downwards: samples are ancestral, Gibbs steps at the top and one pass down. Read upwards, the same weights start a sigmoid network,
which a last stage trains on labels (Hinton & Salakhutdinov 2006, doi:10.1126/science.1127647).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.companions import Companions
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig, limited
from genlib.data.transforms.vectors import VectorShape, VectorTransform
from genlib.functional.gibbs import Draw
from genlib.models.energy.base.contrastive import ContrastiveTask
from genlib.models.energy.rbm import RBM, RBMConfig
from genlib.ports import Features, Probabilities, Sample, Seeds, Sizes, Steps
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step

_FIRST_WEIGHTS = 0.1
"""Standard deviation of first weights: codes of a layer below differ less than samples, so that smaller ones take long to part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackedRBMConfig(RBMConfig):
    """An RBM whose visible units are the hidden ones of the stage `below`; it reads samples at that one's size."""

    roles: ClassVar[tuple[str, ...]] = ("below",)

    def check_data(self, data: DataSpec) -> None:
        """The stage below says what it cannot learn from."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> StackedRBM:
        below = upstream.get("below")
        if not isinstance(below, ContrastiveTask):
            raise ValueError("a stacked RBM stands on a stage of an RBM, in the role `below`; name one in the recipe's `needs`, or take rbm")
        return StackedRBM(self, below)


class StackedRBM(RBM):
    """The task; with what is below it, a generative deep belief network."""

    companions = replace(RBM.companions, example="genlib.models.energy.dbn:example_of_stacked")

    def __init__(self, config: StackedRBMConfig, below: ContrastiveTask) -> None:
        super().__init__(config, below.shape, visible=below.config.hidden, upstream={"below": below})

    @property
    def below(self) -> ContrastiveTask:
        """The frozen RBM whose hidden units are the visible ones here."""
        found = self.upstream["below"]
        assert isinstance(found, ContrastiveTask)
        return found

    def encode(self, batch: Batch) -> Batch:
        return {"code": self.below.codes(batch["x"])}

    def visible(self, batch: Batch) -> Tensor:
        return batch["code"]

    def to_visible(self, x: Tensor) -> Tensor:
        return self.below.codes(x)

    def from_visible(self, v: Tensor, draw: Draw | None = None) -> Tensor:
        if draw is None:
            return self.below.decoded(v)
        lower = Draw(draw.position, draw.seed, draw.stream + "below ")
        return self.below.decoded(lower.coins(v, "hidden"), lower)


def example_of_stacked(task: StackedRBM, size: int) -> Batch:
    """See `Companions.example`."""
    return {"code": torch.rand(size, task.below.config.hidden)}


def stack_of(top: ContrastiveTask) -> list[ContrastiveTask]:
    """The RBMs from the lowest up to `top`."""
    return [*(stack_of(top.below) if isinstance(top, StackedRBM) else []), top]


@dataclass(frozen=True, kw_only=True, slots=True)
class DBNConfig(TaskConfig):
    """A classifier of sigmoid layers, started from the stack in the role `top`, or from random weights."""

    layers: tuple[int, ...] = ()
    """Units of each hidden layer, for random weights; with a stack it says them."""
    from_stack: bool = True
    """Start from the stack's weights; False takes its sizes alone, to compare."""
    gain: float = limited(1.0, above=0)
    """Random weights as a multiple of Glorot's. A deep sigmoid network hardly learns from 1; 4, which makes up for the slope of a sigmoid,
    is a start nearly as good as a stack where all samples have labels."""
    image_size: int = limited(0, at_least=0)
    """Pixels a side, without a stack; 0 is the data's own."""

    fields: ClassVar[tuple[str, ...]] = ("image|array", "label")

    def validate(self) -> None:
        if any(size < 1 for size in self.layers):
            raise ValueError(f"task.layers {self.layers}: every layer needs at least one unit; give for example 256 256 256")

    def check_data(self, data: DataSpec) -> None:
        if len(data.class_names) < 2:
            raise ValueError("fine-tuning learns from labels, but the samples have none (.cls members); give labelled shards, or a set like digits")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> DBN:
        self.check_data(data)
        top = upstream.get("top")
        if not isinstance(top, ContrastiveTask) and not self.layers:
            raise ValueError(
                "there is no stack of RBMs in the role `top` and no task.layers; name a stage in the recipe's `needs`, or give the sizes"
            )
        return DBN(self, data, top if isinstance(top, ContrastiveTask) else None)


class DBN(Task):
    """The task: samples and labels in, a classifier out; `top`, which stays as it is, draws samples."""

    objective = ("error", "min")
    companions = Companions(
        assess="genlib.models.energy.dbn_assess:assess",
        sheet="genlib.models.energy.dbn_assess:sheet",
        no_graphs="its units are drawn at random again and again (Gibbs sampling), and a graph is one pass without chance",
        example="genlib.models.energy.dbn:example",
    )
    net: nn.Sequential

    def __init__(self, config: DBNConfig, data: DataSpec, top: ContrastiveTask | None) -> None:
        super().__init__({"top": top} if top else {})
        self.config, self.data = config, data
        self.shape = top.shape if top else VectorShape.of(data, config.image_size)
        stack = stack_of(top) if top else []
        sizes = [self.shape.size, *([rbm.config.hidden for rbm in stack] or config.layers), len(data.class_names)]
        self.net = sigmoid_network(sizes, config.gain)
        if config.from_stack:
            for layer, rbm in zip(list(self.net)[::2], stack, strict=False):
                layer.load_state_dict({"weight": rbm.net.weight.T, "bias": rbm.net.hidden})

    @property
    def top(self) -> ContrastiveTask | None:
        """The highest RBM of the frozen stack, where there is one."""
        found = self.upstream.get("top")
        assert found is None or isinstance(found, ContrastiveTask)
        return found

    def transform(self, train: bool) -> VectorTransform:
        return VectorTransform(self.shape)

    def inputs(self, x: Tensor) -> Tensor:
        """What the first layer sees of samples x (B, D)."""
        return stack_of(self.top)[0].to_visible(x) if self.top else x

    def logits(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, classes)."""
        return self.net(self.inputs(x)).float()

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        logits = self.logits(batch["x"])
        return F.cross_entropy(logits, batch["label"], reduction="none"), {"error": (logits.argmax(1) != batch["label"]).float()}

    def sizes(self, data: DataSpec) -> Sizes:
        return self.shape.port_sizes(data)

    @action
    @torch.no_grad()
    def embed(self, *, image: Sample) -> Features:
        """What the last hidden layer says (B, H) of images (B, C, H, W) in [0, 1] or vectors (B, D)."""
        return self.net[:-1](self.inputs(self.shape.flat(image, self.device)))

    @action
    @torch.no_grad()
    def classify(self, *, image: Sample) -> Probabilities:
        """Probabilities (B, classes) of each class for images (B, C, H, W) in [0, 1] or vectors (B, D)."""
        return self.logits(self.shape.flat(image, self.device)).softmax(1)

    @action
    def generate(self, *, seed: Seeds, steps: Steps = 1000) -> Sample:
        """Images (len(seed), C, H, W) in [0, 1], or vectors, each of its own seed: Gibbs steps at the top of the stack, then down."""
        if self.top is None:
            raise ValueError("this network was trained from random weights, without a stack of RBMs, and cannot draw; take the recipe dbn")
        return self.top.generate(seed=seed, steps=steps)


def example(task: DBN, size: int) -> Batch:
    """See `Companions.example`."""
    return {"x": torch.rand(size, task.shape.size), "label": torch.arange(size) % len(task.data.class_names)}


def sigmoid_network(sizes: list[int], gain: float) -> nn.Sequential:
    """Linear layers through these sizes with sigmoids between them; hidden weights `gain` times those of Glorot & Bengio 2010."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        linear = nn.Linear(a, b)
        nn.init.xavier_uniform_(linear.weight, gain=gain if len(layers) < 2 * len(sizes) - 4 else 1.0)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Sigmoid()]
    return nn.Sequential(*layers[:-1])


def _stages(data: DataConfig, hidden: tuple[int, ...], rbm: TrainConfig, fine_tuning: TrainConfig) -> tuple[Stage, ...]:
    """A stage for each RBM, `layer1` the lowest, and one that fine-tunes."""
    lowest = Stage(name="layer1", task=RBMConfig(hidden=hidden[0], initial_weight=_FIRST_WEIGHTS), data=data, train=rbm)
    higher = [
        Stage(
            name=f"layer{number}",
            task=StackedRBMConfig(hidden=size, initial_weight=_FIRST_WEIGHTS),
            data=data,
            train=rbm,
            needs={"below": f"layer{number - 1}"},
        )
        for number, size in enumerate(hidden[1:], 2)
    ]
    return (lowest, *higher, Stage(name="classifier", task=DBNConfig(), data=data, train=fine_tuning, needs={"top": f"layer{len(hidden)}"}))


def dbn() -> Recipe:
    """Four RBMs of handwritten digits, one on the other, which draw digits and start a network that names them.

    `python jobs/train.py dbn`. 2.5% of held-out digits are named wrongly; 38 CPU-seconds, of which 2.5 are fine-tuning.
    """
    data, optim = DataConfig(train="digits"), OptimConfig(name="sgd", learning_rate=0.2, momentum=0.5, weight_decay=1e-4, schedule="linear")
    rbm = TrainConfig(steps=2000, global_batch=100, optim=optim)
    fine_tuning = TrainConfig(steps=600, global_batch=100, optim=OptimConfig(name="adam", learning_rate=3e-3, schedule="linear"))
    short = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=replace(optim, learning_rate=0.5, schedule="constant"))
    short_tuning = replace(short, optim=OptimConfig(name="adam", learning_rate=3e-3))
    return Recipe(stages=_stages(data, (128,) * 4, rbm, fine_tuning), smoke=_stages(data, (24, 16), short, short_tuning))
