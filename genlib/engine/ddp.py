"""Data-parallel training: every rank holds all weights, gradients are averaged during backward."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import nn

from genlib import distributed
from genlib.engine.single import SingleDevice
from genlib.engine.strategy import LossModule


class DistributedDataParallel(SingleDevice):
    """Strategy of several processes with whole weights each."""

    def wrap(self, loss_module: LossModule) -> nn.Module:
        if not dist.is_initialized():  # one process: nothing to average
            return loss_module
        # Buffers are not broadcast at each forward: what moves them is equal on all ranks, but for batch statistics (see after_step).
        # A weight that a loss does not reach has no gradient then; else the ranks would wait for one.
        return nn.parallel.DistributedDataParallel(
            loss_module, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
        )  # fmt: skip

    def without_sync(self, loss_module: nn.Module) -> AbstractContextManager:
        return loss_module.no_sync() if isinstance(loss_module, nn.parallel.DistributedDataParallel) else super().without_sync(loss_module)

    def after_step(self, step) -> None:
        average_batch_statistics(self.task)
        super().after_step(step)


@torch.no_grad()
def average_batch_statistics(task: nn.Module) -> None:
    """Makes running means and variances of batch normalisation the same on all ranks: their mean."""
    if distributed.world_size() == 1:
        return
    for module in task.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm) and module.training:
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    statistic.copy_(distributed.mean_over_ranks(statistic))
