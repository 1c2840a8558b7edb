"""Scores on the validation split during training."""

from __future__ import annotations

import torch

from genlib import distributed
from genlib.config import TrainConfig
from genlib.encoded_batch import encoded
from genlib.engine.strategy import Strategy
from genlib.task import Task
from genlib.types import DataSource


@torch.no_grad()
def evaluate(task: Task, strategy: Strategy, source: DataSource, config: TrainConfig) -> dict[str, float]:
    """`val/` and each value of `Task.evaluate`, its mean over all validation samples and ranks; {} where there is no such split."""
    totals: dict[str, torch.Tensor] = {}
    task.eval()
    with strategy.whole_weights():
        for batch in source.batches(
            "validation", config.global_batch // config.accumulation, rank=distributed.rank(), world=distributed.world_size(),
            seed=config.seed, start=0, transform=task.transform(train=False),
        ):  # fmt: skip
            batch = {name: value.to(strategy.device) for name, value in batch.items()}
            valid = batch["valid"].float()
            for name, value in task.evaluate(encoded(task, batch)).items():
                total = torch.stack([(value.float() * valid).sum(), valid.sum()]).double()
                totals[name] = totals.get(name, 0) + total
    task.train()
    means = {name: distributed.mean_over_ranks(total) for name, total in sorted(totals.items())}
    return {f"val/{name}": (total[0] / total[1]).item() for name, total in means.items()}
