"""A step in micro-batches whose loss and gradient are those of the whole batch, also where the loss looks at samples together.

For a joint phase (`genlib.task.Phase`) the features of all micro-batches come first, without graph; then the loss of all of them and
its gradient at each feature; then each micro-batch again, with graph, whose features are pulled by that gradient (Gao et al. 2021,
arXiv:2101.06983). The last micro-batch keeps the graph of its first pass, so of n micro-batches n - 1 go through the networks twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from genlib.engine.strategy import LossModule, mean_loss
from genlib.task import Phase, row_facts
from genlib.types import Batch, Metrics, Step

Pass = Callable[[], tuple[Tensor, Metrics]]


def passes(wrapped: Callable[..., tuple[Tensor, Metrics]], bare: LossModule, phase: Phase, micro_batches: Sequence[Batch], step: Step) -> list[Pass]:
    """What gives the losses to send back, one after the other: the mean of their gradients is that of the step.

    wrapped: the loss module as the strategy calls it where gradients are wanted; bare: the same without what the strategy put around it.
    Each is called once, in order, and its loss sent back before the next.
    """
    if not phase.joint or len(micro_batches) == 1:
        return [partial(wrapped, phase.name, batch, step) for batch in micro_batches]
    joint = _JointPhase(wrapped, bare, phase, micro_batches, step)
    return [joint.first, *(partial(joint.again, index) for index in range(len(micro_batches) - 1))]


class _JointPhase:
    """One joint phase of one step."""

    def __init__(self, wrapped: Callable, bare: LossModule, phase: Phase, micro_batches: Sequence[Batch], step: Step) -> None:
        self.bare, self.phase, self.micro_batches, self.step = bare, phase, micro_batches, step
        self.features = partial(wrapped, phase.name, step=step, part="features")
        self.generators: list[_Generators] = []

    def first(self) -> tuple[Tensor, Metrics]:
        """The features of all micro-batches, the loss of the whole, and the last micro-batch's share of its gradient."""
        *others, last = self.micro_batches
        made: list[Batch] = []
        for batch in others:
            self.generators.append(_Generators(self.bare.device))
            with torch.no_grad():
                made.append(self.bare(self.phase.name, batch, self.step, part="features"))
        kept = self.features(last)
        self.learns = [name for name, value in kept.items() if value.requires_grad]
        self.learn([*made, {name: value.detach() for name, value in kept.items()}])
        return self.pulled(kept, len(others))

    def learn(self, made: Sequence[Batch]) -> None:
        """Loss, metrics, and gradients at the features of each micro-batch."""
        leaves = [{name: value.requires_grad_() if name in self.learns else value for name, value in features.items()} for features in made]
        rows = [{**row_facts(batch), **features} for batch, features in zip(self.micro_batches, leaves, strict=True)]
        whole = {name: torch.cat([part[name] for part in rows]) for name in rows[0]}
        loss, metrics = self.bare.whole(self.phase.name, whole, self.step)
        loss, self.metrics = mean_loss(loss, metrics, whole, self.phase.name, self.phase.loss_weight)
        flat = torch.autograd.grad(loss, [features[name] for features in leaves for name in self.learns], materialize_grads=True)
        count = len(self.learns)
        # the mean over micro-batches is taken of what is sent back, so each counts as often as there are micro-batches
        self.pulls = [[len(made) * gradient for gradient in flat[i * count : (i + 1) * count]] for i in range(len(made))]

    def again(self, index: int) -> tuple[Tensor, Metrics]:
        """Another micro-batch's share, its networks drawing what they drew before."""
        self.generators[index].restore()
        return self.pulled(self.features(self.micro_batches[index]), index)

    def pulled(self, features: Batch, index: int) -> tuple[Tensor, Metrics]:
        """A scalar whose gradient at the micro-batch's features is that of the whole batch's loss; the metrics are those of the whole."""
        pulls = zip(self.learns, self.pulls[index], strict=True)
        return torch.stack([(features[name].float() * pull).sum() for name, pull in pulls]).sum(), self.metrics


class _Generators:
    """PyTorch's random generators as they are now: what dropout and the like draw from."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.host = device, torch.get_rng_state()
        self.accelerator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Makes them draw the same again."""
        torch.set_rng_state(self.host)
        if self.accelerator is not None:
            torch.cuda.set_rng_state(self.accelerator, self.device)
