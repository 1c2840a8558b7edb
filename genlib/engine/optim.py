"""Optimizers and learning rates, made from `OptimConfig`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genlib.config import OptimConfig
from genlib.task import Task


def parameter_groups(task: Task, weights: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict]:
    """A player's trained weights in one group that decays and one that does not; empty groups are left out."""
    if not weights:
        raise ValueError(f"a player of {type(task).__name__} has no trainable weights; a task without training has phases = ()")
    groups = [
        {"params": [p for p in weights.values() if (bool(weight_decay) and decays(p)) is decayed], "weight_decay": weight_decay if decayed else 0.0}
        for decayed in (True, False)
    ]
    return [group for group in groups if group["params"]]


def decays(weight: nn.Parameter) -> bool:
    """Whether weight decay applies: not to gains, biases and temperatures, which have fewer than two dimensions."""
    return weight.dim() >= 2


def make_optimizer(groups: list[dict], config: OptimConfig) -> Optimizer:
    """The optimizer over these groups, fused where PyTorch has it for the weights' device."""
    lr = config.learning_rate
    match config.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr, momentum=config.momentum, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr, alpha=config.beta2, momentum=config.momentum, eps=config.eps, foreach=True)
        case "lion":
            from pytorch_optimizer import Lion

            return Lion(groups, lr, betas=(config.beta1, config.beta2))


def counts_updates(optimizer: Optimizer) -> bool:
    """Whether its state of each weight has `step`, how often the weight moved."""
    return isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW | torch.optim.RMSprop)


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """Learning rate of step 0 to total - 1: linear warm-up to the peak, then constant, cosine or linear to `final_fraction` of it."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": (1.0 + math.cos(math.pi * done)) / 2}[config.schedule]
    floor = 1.0 if config.schedule == "constant" else config.final_fraction
    return config.learning_rate * (floor + (1.0 - floor) * shape)


def schedule_change(optims: Iterable[OptimConfig], step: int, before: int, now: int, elsewhere: str) -> str:
    """What becomes of the learning rate after `step` steps where a run of `before` steps is to take `now`, in a sentence with the choices.

    Of the first optimizer whose rate jumps; empty where none does. `elsewhere` says how another run starts from the weights.
    """
    for optim in optims:
        if before != now and optim.schedule != "constant" and step > optim.warmup_steps:
            old, new = learning_rate(optim, step - 1, before), learning_rate(optim, step, now)
            return (
                f"the {optim.schedule} schedule of {before:,} steps had brought the learning rate to {old:.2g}; that of {now:,} steps goes on from "
                f"{new:.2g}. To choose otherwise stop now: {elsewhere}, with a schedule that starts again, or, to stay where it was, with "
                f"--train.optim.schedule constant --train.optim.learning_rate {old:.2g}"
            )
    return ""


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    """Writes it into every group."""
    for group in optimizer.param_groups:
        group["lr"] = value


@torch.no_grad()
def limit_weights(weights: Iterable[Tensor], limit: float) -> None:
    """Brings weights, or pieces of them, into [-limit, limit] in place; 0 is off."""
    if limit:
        for weight in weights:
            weight.clamp_(-limit, limit)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales gradients in place to a global norm of at most `max_norm` (0 is off) and returns the norm before, a scalar that is
    not finite exactly when some gradient is not."""
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
