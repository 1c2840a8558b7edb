"""Scores on the validation split during training."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch

from genlib import distributed
from genlib.config import TrainConfig
from genlib.encoded_batch import encoded
from genlib.engine.strategy import Strategy
from genlib.task import Task, row_facts
from genlib.types import Batch, DataSource, Metrics


@torch.no_grad()
def evaluate(task: Task, strategy: Strategy, source: DataSource, config: TrainConfig) -> dict[str, float]:
    """`val/` and each value of `Task.evaluate`, its mean over all validation samples and ranks; {} where there is no such split.

    Of the weights as they are trained, or the average of them that their optimizer says is what is learnt.

    Networks see one micro-batch at a time; what looks at samples together looks at as many as a step learns from.
    """
    totals: dict[str, torch.Tensor] = {}
    task.eval()
    with strategy.averaged_weights(), strategy.whole_weights():
        for valid, values in _evaluated(task, _batches(task, strategy, source, config), config.accumulation):
            for name, value in values.items():
                total = torch.stack([(value.float() * valid).sum(), valid.sum()]).double()
                totals[name] = totals.get(name, 0) + total
    task.train()
    means = {name: distributed.mean_over_ranks(total) for name, total in sorted(totals.items())}
    return {f"val/{name}": (total[0] / total[1]).item() for name, total in means.items()}


def _batches(task: Task, strategy: Strategy, source: DataSource, config: TrainConfig) -> Iterator[Batch]:
    """This rank's held-out samples, a micro-batch at a time."""
    for batch in source.batches(
        "validation", config.global_batch // config.accumulation, rank=distributed.rank(), world=distributed.world_size(),
        seed=config.seed, start=0, transform=task.transform(train=False),
    ):  # fmt: skip
        yield encoded(task, {name: value.to(strategy.device) for name, value in batch.items()})


def _evaluated(task: Task, batches: Iterator[Batch], accumulation: int) -> Iterator[tuple[torch.Tensor, Metrics]]:
    """Which rows count, as float32, and their values: of each batch, or of so many joined."""
    if not task.evaluates_jointly:
        yield from ((batch["valid"].float(), task.evaluate(batch)) for batch in batches)
        return
    while some := [{**row_facts(batch), **task.evaluation_features(batch)} for batch in islice(batches, accumulation)]:
        whole = {name: torch.cat([part[name] for part in some]) for name in some[0]}
        weight = whole["valid"].float()
        yield weight, task.joint_evaluation({**whole, "weight": weight})
