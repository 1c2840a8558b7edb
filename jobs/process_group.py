"""How the workers of a run find each other: as Ray Train arranges it on a cluster, through a file on a machine of one's own."""

from __future__ import annotations

import os
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch.distributed as dist
from ray.train.torch import TorchConfig

from cluster.local import RENDEZVOUS


class _Backend(TorchConfig().backend_cls):
    """Opens the process group in Ray Train's workers, each time they start."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Rank 0's store, which Ray Train 2.60 has torch open, listens on every address and asks nobody who they are; a file does not listen."""
        if folder := os.environ.get(RENDEZVOUS):
            path = Path(folder) / f"workers-{secrets.token_hex(8)}"
            worker_group.execute(join, path, backend_config.backend, timedelta(seconds=backend_config.timeout_s))
        else:
            super().on_start(worker_group, backend_config)


class ProcessGroup(TorchConfig):
    """Ray Train's settings of torch's process group; on a head of our own the workers meet in its folder."""

    @property
    def backend_cls(self) -> type:
        return _Backend


def join(path: Path, backend: str, timeout: timedelta) -> None:
    """In a worker: enters the process group of all that are given the same path. Sets what torchrun would, for DeepSpeed and Accelerate."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(context.get_local_rank()), LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()), ACCELERATE_TORCH_DEVICE=str(ray.train.torch.get_device()),
    )  # fmt: skip
    store = dist.FileStore(str(path), world)  # pyright: ignore[reportPrivateImportUsage]
    store.set_timeout(timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
