"""Several gloo processes for one function: what data-parallel tests run in."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from genlib import registry
from genlib.engine import zero
from genlib.engine.sharded_init import ShardedInit

IMPORTED = [
    "deepspeed.runtime.zero.muon.muon_optimizer", "deepspeed.runtime.zero.stage3", "deepspeed.runtime.zero.stage_1_and_2",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.transformers.transformer_sd3", "diffusers.models.unets.unet_2d", "diffusers.models.unets.unet_2d_condition",
    "genlib.engine.fit", "genlib.engine.zero", "tests.models.stages", "transformers.models.clip.modeling_clip", "transformers.models.t5.modeling_t5",
    *sorted({target.partition(":")[0] for target in registry.RECIPES.values()}),
]  # fmt: skip
"""Importing these takes a dozen seconds: a server does it once, and every rank is forked from it in a tenth of one."""
multiprocessing.set_forkserver_preload(["tests.preloaded"])


def run_ranks(world: int, function: Callable[..., None], *arguments: object) -> None:
    """Calls `function(*arguments)` in `world` processes with a process group; raises what a rank raised."""
    with tempfile.TemporaryDirectory() as folder:
        shared = (world, Path(folder) / "store", dict(os.environ), function, arguments)
        mp.start_processes(_rank, args=shared, nprocs=world, start_method="forkserver")


def _rank(rank: int, world: int, store: Path, environment: dict[str, str], function: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.clear()  # the server's is as old as the server
    os.environ.update(environment, RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    zero.ShardedInit = partial(ShardedInit, whole_elements=1_000, small_elements=64)  # small networks are sharded as large ones are
    dist.init_process_group("gloo", store=dist.FileStore(str(store), world), rank=rank, world_size=world)
    try:
        function(*arguments)
        dist.barrier()  # who leaves first would close connections that another still uses
    finally:
        dist.destroy_process_group()
