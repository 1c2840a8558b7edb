"""Task: what is learnt. It owns the networks, the loss of each phase, and what the trained thing can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar, overload

import torch
from torch import Tensor, nn

from genlib.actions import Action
from genlib.companions import Companions
from genlib.ports import Sizes
from genlib.types import Batch, DataSource, DataSpec, Metrics, Step, Transform
from genlib.upstream import Upstream, add_state, every_upstream, take_state

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One weight update inside a training step."""

    name: str = "train"
    player: str = "net"
    """Attribute of the task: the sub-module whose weights this phase updates."""
    every: int = 1
    """Runs at steps whose index it divides."""
    start: int = 0
    """Index of the first step at which it runs; until then its player and the player's optimizer stay as they are."""
    loss_weight: float = 1.0
    """Factor of its loss in the gradient; what is logged stays without it. A phase of every k-th step that stands for all has k."""
    weight_limit: float = 0.0
    """After its update every weight of the player is brought into [-weight_limit, weight_limit]; 0 is off."""
    joint: bool = False
    """Its loss looks at samples together, as a contrastive one, and comes in two parts, `Task.joint_features` and `Task.joint_loss`: with
    `train.accumulation` the loss and gradient are still those of the whole batch."""

    def due(self, index: int) -> bool:
        """Whether it runs at the step of that index."""
        return index >= self.start and index % self.every == 0


@overload
def action(method: F) -> F: ...
@overload
def action(*, joint: bool = False) -> Callable[[F], F]: ...
def action(method: F | None = None, *, joint: bool = False) -> F | Callable[[F], F]:
    """Marks a task's method as something it can do once trained; its keyword arguments and result are ports (`genlib.ports`).

    Row i of what comes out is a function of row i of what goes in, so that calls can be merged into one; a `joint` action looks at its rows
    together and is never merged. The docstring's first paragraph is what clients read.
    """

    def marked(method: F) -> F:
        method.__action__ = joint  # type: ignore[attr-defined]
        return method

    return marked(method) if method else marked


class Task(nn.Module):
    """Base of every family. Made by its config's `build(data, upstream)`.

    The engine calls `loss` with every player but the phase's frozen, in train mode, on one rank's share of a global micro-batch.
    """

    phases: tuple[Phase, ...] = (Phase(),)
    accumulation_effect: str = ""
    """What `train.accumulation` changes in what is learnt, in a sentence; empty where loss and gradient stay those of the whole batch."""
    objective: tuple[str, Literal["min", "max"]] = ("loss", "min")
    """The value of `evaluate` by which a search ranks trials, and whether less or more of it is better."""
    companions: ClassVar[Companions] = Companions()
    """What the family has beside its training, by name: see `genlib.companions`."""
    export_is_a_model: ClassVar[bool] = False
    """Whether its `load_pretrained` finds in what its `export` writes all that the actions need: then the export is sealed like a checkpoint, and
    drawn from and served like one."""
    averaged: tuple[str, ...] | None = None
    """Players whose weights the run's moving average follows; None is all. It has the others as they are."""
    frozen_precision: ClassVar[Literal["fp32", "bf16"]] = "fp32"
    """In which its layers may be kept where a later task holds it frozen: bf16 where what it makes allows it, and all that asks its networks while
    that one trains does so inside of `as_kept`."""
    upstream_prefix: ClassVar[str] = ""
    """What stands before the roles of upstream tasks in the names of the state dict."""
    keeps_constants: ClassVar[bool] = False
    """Whether `keep_constants` has anything to keep."""
    kept_in_bf16: bool = False
    """Whether its layers are in bf16 now, in a task that trains."""
    upstream: Upstream
    """The frozen tasks of earlier stages that it holds, by role."""

    def __init__(self, upstream: Mapping[str, Task] | None = None) -> None:
        super().__init__()
        self.upstream = Upstream(upstream or {})
        self.register_state_dict_post_hook(add_state)
        self.register_load_state_dict_pre_hook(take_state)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As of any module, together with its upstream tasks."""
        self.upstream.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """The loss of each sample (B,), or a scalar that is a mean already; and values to log. Of a joint phase it is made of its two parts.

        A `loss` among the values is logged in place of the first, for a rule whose scalar only carries its gradient (`learning_rule`).
        """
        return self.joint_loss(phase, {**row_facts(batch), **self.joint_features(phase, batch, step)}, step)

    def joint_features(self, phase: str, batch: Batch, step: Step) -> Batch:
        """Of a joint phase: what its networks make of each sample alone, B rows, and all else of the samples that `joint_loss` needs.

        Called twice for most micro-batches, once without gradient, so it keeps nothing. A trained number that is no sample's, such as a
        temperature, is given to every row.
        """
        raise NotImplementedError

    def joint_loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """Of a joint phase: as `loss`, from `joint_features` of all this rank's samples of a step, with their `position`, `valid` and `weight`.

        It calls no trained network: all gradients go through the features.
        """
        raise NotImplementedError

    def observe(self, phase: str, loss: Tensor, grad_norm: float) -> None:
        """Hears of each update, on all ranks the same: the mean loss over the global batch, a scalar, and the norm of its gradient before clipping.

        Where one of them is not finite the update was left out. What moves without a gradient may do so here, before the step's next phase; weights
        may not, which are not whole under ZeRO-3.
        """

    def after_step(self, step: Step) -> None:
        """What moves without gradient after all phases of a step: momentum encoders, queues, codebooks. Equal on all ranks."""

    def encode(self, batch: Batch) -> Batch:
        """What frozen networks make of the samples, B rows each, without gradient; the engine adds it to the batch before the phases.

        A function of the samples alone, never of position, step or trained weights, so that it may be made once and kept. `loss` and
        `evaluate` of a task that encodes read nothing else of the batch, but `position`, `valid` and `weight`.
        """
        return {}

    def asked_upstream(self) -> Iterable[nn.Module]:
        """The modules of upstream tasks that `encode`, `loss` and `evaluate` ask: the engine takes all others away while the task trains. By default
        all of them."""
        return every_upstream(self)

    def keep_constants(self) -> None:
        """Keeps what `loss` needs of upstream networks beside what `encode` gives, and what is the same in every step.

        Called before the first step, without gradient: where everything is encoded ahead, the networks are away afterwards.
        """

    @property
    def encodes(self) -> bool:
        """Whether the task has such an `encode`."""
        return type(self).encode is not Task.encode

    def evaluate(self, batch: Batch) -> Metrics:
        """Values on held-out samples, without gradient and in eval mode: by default the first phase's loss and what it logs."""
        if not self.phases:
            return {}
        batch = {**batch, "weight": batch["valid"].float()}  # of the engine in training alone, and `loss` may ask for it
        if self.evaluates_jointly:
            return self.joint_evaluation({**row_facts(batch), **self.evaluation_features(batch)})
        loss, metrics = self.loss(self.phases[0].name, batch, Step(0, 1))
        return {"loss": loss, **metrics}

    @property
    def evaluates_jointly(self) -> bool:
        """Whether `evaluate` looks at samples together, and so is made of two parts: then it is of as many as a step learns from."""
        if type(self).evaluate is not Task.evaluate:
            return False
        return any(phase.joint for phase in self.phases[:1]) or type(self).joint_evaluation is not Task.joint_evaluation

    def evaluation_features(self, batch: Batch) -> Batch:
        """What `joint_evaluation` needs of each sample, B rows: by default the features of the first phase."""
        return self.joint_features(self.phases[0].name, batch, Step(0, 1))

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """As `evaluate`, from `evaluation_features`, with `position`, `valid` and `weight`: by default the first phase's loss and what it logs."""
        loss, metrics = self.joint_loss(self.phases[0].name, batch, Step(0, 1))
        return {"loss": loss, **metrics}

    def divergence_reason(self, values: Mapping[str, float]) -> str:
        """Why it is no use to train on, in a sentence, from the values of one evaluation by `evaluate`'s names; empty where it is.

        A run prints it; a search stops the trial.
        """
        return ""

    def transform(self, train: bool) -> Transform | None:
        """How decoded samples become a batch: augmented if `train`. None is the source's plain conversion to tensors."""
        return None

    def prepare(self, source: DataSource) -> None:
        """Data-dependent start of a fresh run, before the first step: tokenizers, prototypes drawn from samples, scales.

        Called on every rank; what it sets must depend on the source and the torch seed alone and live in the state dict.
        """

    @property
    def grows(self) -> bool:
        """Whether later steps will take more than those now, as more layers come to be used."""
        return False

    def grow_up(self) -> None:
        """Lets all layers be used from now on: for who plans a run, which has to hold its largest steps."""

    def player(self, name: str) -> nn.Module:
        """The sub-module of that name."""
        return self.get_submodule(name)

    def players(self) -> tuple[str, ...]:
        """Names of all players, in order of their first phase."""
        return tuple(dict.fromkeys(phase.player for phase in self.phases))

    @classmethod
    def actions(cls) -> tuple[Action, ...]:
        """All methods marked with `@action`."""
        found = {name: getattr(cls, name) for name in dir(cls) if hasattr(getattr(cls, name, None), "__action__")}
        return tuple(Action.of(name, method, joint=method.__action__) for name, method in found.items())

    def sizes(self, data: DataSpec) -> Sizes:
        """What its ports measure, once trained on such data: by default images or vectors as the data have them."""
        return Sizes(channels=data.channels, side=data.image_size, vector=0 if data.image_size else data.vector_size, classes=data.class_names)

    def step_calls(self) -> Iterable[tuple[nn.Module, str]]:
        """What its actions call again and again on their way, as modules and names of their methods: a server merges these calls of its requests.

        Row i of what such a method gives is a function of row i of its tensors. A loop that walks through such calls can be left between
        any two of them.
        """
        return ()

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Pieces of the vocabulary, marks included, as which the texts of an action are read; 0 where no vocabulary reads them."""
        return 0

    def preview(self, x0: Tensor) -> Tensor | None:
        """Images (B, C, H, W) in [0, 1] that a sampler's estimate x0 of what comes out stands for; None where it can be shown as none."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the first weight lives; of a task without any, that of its first upstream task."""
        first = next((value for task in (self, *self.upstream.values()) for value in task.parameters()), None)
        return torch.device("cpu") if first is None else first.device


def row_facts(batch: Batch) -> Batch:
    """What a joint loss knows of its rows beside their features: `position`, `valid` and `weight`, where the batch has them."""
    return {name: batch[name] for name in ("position", "valid", "weight") if name in batch}


def weighted_mean(values: Tensor, batch: Batch) -> Tensor:
    """Mean of per-sample values (B,) in which placeholders count as nothing; a scalar is returned as it is.

    The mean over ranks and micro-batches of this is the mean over the global batch, see `Batch`.
    """
    return values if values.dim() == 0 else weighted(values, batch).mean()


def weighted(values: Tensor, batch: Batch) -> Tensor:
    """Values (B, ...) times each row's `weight`, for a task that takes the mean over rows itself, as `weighted_mean` does."""
    return values * batch["weight"].view(-1, *[1] * (values.dim() - 1))


class _LearningRule(torch.autograd.Function):
    """(count, count parameters, as many gradients) -> 0."""

    @staticmethod
    def forward(ctx, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx, *grads: Tensor):
        gradients = ctx.saved_tensors
        return None, *(gradient * grads[0] for gradient in gradients), *(None for _ in gradients)


def learning_rule(*updates: tuple[nn.Parameter, Tensor]) -> Tensor:
    """A scalar whose gradient with respect to each parameter is exactly the tensor beside it, so that a textbook rule can be an optimizer's gradient.

    `learning_rule((W, -delta_W), (b, -delta_b))`: plain SGD with learning rate r then adds r * delta. Data-parallel like any loss.
    """
    parameters, gradients = zip(*updates, strict=True)
    return _LearningRule.apply(len(updates), *parameters, *gradients)  # type: ignore[return-value]
