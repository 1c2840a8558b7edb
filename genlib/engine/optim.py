"""Optimizers and learning rates, made from `OptimConfig`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genlib.config import OptimConfig
from genlib.task import Task

WHOLE = ("muon", "adafactor", "adamw_8bit")
"""Optimizers whose update of a number hangs on the rest of its weight, or of its block in the weight."""
AVERAGING = ("schedule_free_adamw",)
"""Optimizers that train weights of which an average is what is learnt, see `averaged`."""
COUNTERS = ("step", "weight_sum", "rate_max")
"""State that is a number a weight, whatever the weight's shape."""
LEAST_8BIT, BLOCK_8BIT = 4096, 256
"""Elements of the smallest weight whose state has 8 bits, and of a block of it, which has a scale; both bitsandbytes' own."""


def parameter_groups(task: Task, weights: Mapping[str, nn.Parameter], config: OptimConfig) -> list[dict[str, Any]]:
    """A player's trained weights in groups: by `name`, the optimizer that moves them, and whether they decay; empty groups are left out."""
    if not weights:
        raise ValueError(f"a player of {type(task).__name__} has no trainable weights; a task without training has phases = ()")
    if config.name in AVERAGING:
        check_unlimited(task, weights, config.name)
    embedded = {id(module.weight) for module in task.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for weight in weights.values():
        name = "adamw" if left_to_adamw(weight, config.name, id(weight) in embedded) else config.name
        decay = config.weight_decay if decays(weight) else 0.0
        groups.setdefault((name, decay), {"params": [], "weight_decay": decay, "name": name})["params"].append(weight)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], -key[1]))]


def check_unlimited(task: Task, weights: Mapping[str, nn.Parameter], name: str) -> None:
    """ValueError where a phase brings these weights into limits, of which the average that the optimizer keeps would know nothing."""
    ids = {id(weight) for weight in weights.values()}
    for phase in task.phases:
        if phase.weight_limit and any(id(weight) in ids for weight in task.player(phase.player).parameters()):
            raise ValueError(
                f"{name} does not go with phase {phase.name} of {type(task).__name__}, which limits weights after each update; use rmsprop or adamw"
            )


def left_to_adamw(weight: nn.Parameter, name: str, embedded: bool) -> bool:
    """Whether the optimizer of that name is not for this weight: Muon for matrices, and 8 bits for large weights, neither for embeddings."""
    return (name == "muon" and (weight.dim() != 2 or embedded)) or (name == "adamw_8bit" and (weight.numel() < LEAST_8BIT or embedded))


def decays(weight: nn.Parameter) -> bool:
    """Whether weight decay applies: not to gains, biases and temperatures, which have fewer than two dimensions."""
    return weight.dim() >= 2


def make_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> Optimizer | Optimizers:
    """The optimizer over these groups, fused where PyTorch has it for the weights' device."""
    names = sorted({group.get("name", config.name) for group in groups})
    made = [_made(name, [group for group in groups if group.get("name", config.name) == name], config) for name in names]
    return made[0] if len(made) == 1 else Optimizers(made)


def _made(name: str, groups: list[dict[str, Any]], config: OptimConfig) -> Optimizer:
    lr, betas = config.learning_rate, (config.beta1, config.beta2)
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, lr, betas=betas, eps=config.eps, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr, betas=betas, eps=config.eps, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr, momentum=config.momentum, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr, alpha=config.beta2, momentum=config.momentum, eps=config.eps, foreach=True)
        case "lion":
            from pytorch_optimizer import Lion

            return Lion(groups, lr, betas=betas)
        case "muon":
            return torch.optim.Muon(groups, lr, momentum=config.beta1, adjust_lr_fn="match_rms_adamw")
        case "adafactor":
            return torch.optim.Adafactor(groups, lr)
        case "adamw_8bit":
            from genlib.engine.eight_bit import SavedAdamW8bit

            return SavedAdamW8bit(groups, lr, betas=betas, eps=config.eps)
        case "schedule_free_adamw":
            from genlib.engine.schedule_free import WeightwiseScheduleFree

            # all weights at once would need as much memory again as they take
            return WeightwiseScheduleFree(groups, lr, betas=betas, eps=config.eps, foreach=False)
    raise ValueError(f"there is no optimizer {name!r}")


class Optimizers:
    """Several of torch's optimizers as one, each over weights of its own."""

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self.optimizers = optimizers
        self.param_groups = [group for one in optimizers for group in one.param_groups]
        self.state = optimizers[0].state
        for one in optimizers[1:]:
            one.state = self.state

    def step(self) -> None:
        """One update by each."""
        for one in self.optimizers:
            one.step()


def blank_state(
    optimizer: Optimizer | Optimizers, weight: Tensor, updates: int, keys: Collection[str], shape: Sequence[int] = ()
) -> dict[str, Tensor]:  # fmt: skip
    """Optimizer state of one weight with zero tensors under `keys` and, where the optimizer counts updates, its counter; {} without keys.

    shape: of the weight, where it has no values now.
    """
    if not keys:
        return {}
    one = next(
        one for one in getattr(optimizer, "optimizers", [optimizer]) if any(weight is p for group in one.param_groups for p in group["params"])
    )
    like = torch.empty(shape, dtype=weight.dtype, device=weight.device) if shape else weight
    if own := getattr(one, "blank_state", None):
        return own(like)
    state = {key: _blank(key, like) for key in keys if key != "step"}
    if isinstance(one, torch.optim.Adam | torch.optim.AdamW | torch.optim.RMSprop | torch.optim.Adafactor):
        state["step"] = torch.tensor(float(updates), device=weight.device if one.param_groups[0].get("fused") else "cpu")
    return state


def _blank(key: str, like: Tensor) -> Tensor:
    """Zeros for what an optimizer keeps of a weight under that key: Adafactor's sums of rows and columns, else as many numbers as the weight has."""
    if key == "row_var":
        return like.new_zeros(*like.shape[:-1], 1)
    if key == "col_var":
        return like.new_zeros(*like.shape[:-2], 1, like.shape[-1])
    return torch.zeros_like(like, memory_format=torch.preserve_format)


def state_elements(name: str, weight: Tensor, config: OptimConfig) -> int:
    """What the optimizer of that name keeps of a weight, its counter aside, in numbers of fp32."""
    numel = weight.numel()
    if name == "adamw_8bit":  # two codes a number, two scales a block
        return -(-2 * numel // 4) + 2 * -(-numel // BLOCK_8BIT)
    if name == "adafactor":
        return numel // weight.shape[-1] + numel // weight.shape[-2] if weight.dim() > 1 else numel
    momentum = int(config.momentum > 0)
    return numel * {"adamw": 2, "schedule_free_adamw": 2, "adam": 2, "sgd": momentum, "rmsprop": 1 + momentum, "lion": 1, "muon": 1}[name]


def averaged(weight: Tensor, state: Mapping[str, Tensor], config: OptimConfig) -> Tensor:
    """The average x of a trained weight y whose optimizer is one of `AVERAGING`, or of a piece of it, from y = beta1 x + (1 - beta1) z."""
    return weight.lerp(state["z"], 1 - 1 / config.beta1) if "z" in state else weight


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


def set_learning_rate(optimizer: Optimizer | Optimizers, value: float) -> None:
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
